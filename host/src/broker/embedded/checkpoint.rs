//! Moves the write-ahead log into the database, spread over time and beside the writer.
//!
//! A thread with a connection of its own copies pages while the writer commits. Under a load that never pauses it cannot
//! catch up with the last page, and only a log that was moved entirely is begun anew; so when the log has grown long the
//! writer moves the small rest itself, between two groups. Whoever reads at that moment keeps the log from being begun
//! anew; so when it has grown twice as long, or room is short, the writer waits a moment for the readers to go. A
//! checkpoint that fails with an input or output error is final for the broker, as a failed commit is.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB, TransactionBehavior};

use super::directory::{NOT_IN_PLACE, StoreDirectory, log_of};
use super::fault::{SqliteFault, StoreCondition};
use super::room;
use super::schema::SchemaError;

/// After so many new pages of 4 KiB the thread is woken.
const WAKE_PAGES: i64 = 1_024;
/// A log of so many pages, 64 MiB, is moved by the writer.
const LONG_PAGES: i64 = 16 * 1_024;
/// So long the writer waits for readers of old states, so that the log can be emptied.
const EMPTYING_WAIT: Duration = Duration::from_millis(50);
/// The pause between two such tries, so that somebody who reads for long takes a tenth of the writer's time at most.
const EMPTYING_PAUSE: Duration = Duration::from_millis(500);

/// Writes the log that the last owner left once more, and moves it into the database. To be called before the first commit,
/// by whoever owns the directory.
///
/// When a sync fails, the kernel takes the pages that it could not write for clean: they are read as if they were on the
/// disk, later syncs leave them out, and when the power goes whatever was committed behind them is lost with them.
///
/// # Errors
/// [`SchemaError::Log`] or [`SchemaError::Unmoved`]: it is not known to be on the disk, and nothing may be added to it.
pub(super) fn renew(db: &mut Connection, database: &Path) -> Result<(), SchemaError> {
    let log = log_of(database);
    if std::fs::metadata(&log).map_or(0, |file| file.len()) == 0 {
        return Ok(());
    }
    // Held while nobody else may append. The log is whole on the disk before the database is touched, or a power cut in
    // between would leave the half of it there without the other half to mend it.
    let appending = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    rewrite(&log).map_err(SchemaError::Log)?;
    drop(appending);
    match db.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::TRUNCATE) {
        // Another program reads; the log, which is on the disk, goes on where it ended.
        Err(error) if matches!(SqliteFault::of(&error), SqliteFault::Busy(_)) => Ok(()),
        moved => moved.map(drop).map_err(SchemaError::Unmoved),
    }
}

/// Has the kernel take every page of a file for written anew, and syncs them.
fn rewrite(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut piece = vec![0; 1024 * 1024];
    let mut at = 0;
    loop {
        let length = file.read_at(&mut piece, at)?;
        if length == 0 {
            return file.sync_all();
        }
        file.write_all_at(&piece[..length], at)?;
        at += length as u64;
    }
}

/// What is known of the log: how long it is, and how much of it the database has. Copies speak of the same log.
#[derive(Clone, Default)]
pub(super) struct WalProgress {
    pages: Arc<AtomicI64>,
    moved: Arc<AtomicI64>,
    is_removed: Arc<AtomicBool>,
}

impl WalProgress {
    /// Its name is gone. What it holds is there for as long as it is open; see [`Checkpoints::spread`].
    pub(super) fn set_removed(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
    }

    fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    /// So many pages are in the log, after a commit.
    pub(super) fn set_pages(&self, pages: i64) {
        self.pages.store(pages, Ordering::Relaxed);
    }

    fn set_moved(&self, pages: i64) {
        self.moved.store(pages, Ordering::Relaxed);
    }

    /// The pages in the log.
    pub(super) fn pages(&self) -> i64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// The pages that are in the log only.
    fn outstanding(&self) -> i64 {
        let (pages, moved) = (self.pages(), self.moved.load(Ordering::Relaxed));
        // More were moved than there are if the log was begun anew since.
        if moved > pages { pages } else { pages - moved }
    }
}

/// The writer's side.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    condition: StoreCondition,
    log: WalProgress,
    /// The length of the log after the last commit.
    seen: i64,
    /// The length of the log when the thread was woken last.
    woken_at: i64,
    /// The length at which the writer moves it itself.
    long_at: i64,
    /// By how much the log grows until then.
    long: i64,
    /// When the log may be emptied again.
    empty_from: Instant,
}

impl Checkpointer {
    /// Starts the thread on a connection of its own.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(super) fn start(
        db: Connection,
        log: WalProgress,
        directory: Arc<StoreDirectory>,
        condition: StoreCondition,
    ) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let (thread_condition, thread_log) = (condition.clone(), log.clone());
        let thread = thread::Builder::new().name("embedded-log".into()).spawn(move || {
            run(&db, &woken, &thread_log, &thread_condition);
            drop(db);
            drop(directory);
        })?;
        Ok(Self {
            wake: Some(wake),
            thread: Some(thread),
            condition,
            log,
            seen: 0,
            woken_at: 0,
            long_at: LONG_PAGES,
            long: LONG_PAGES,
            empty_from: Instant::now(),
        })
    }

    /// To be called after each commit, with the pages that the log has. A log that was removed is moved as a whole, and
    /// nothing is committed after that.
    pub(super) fn spread(&mut self, db: &Connection, pages: i64) {
        if self.log.is_removed() {
            return self.save(db);
        }
        if pages < self.seen {
            self.begin_anew();
        }
        self.seen = pages;
        if pages - self.woken_at >= WAKE_PAGES {
            self.woken_at = pages;
            if pages >= 2 * self.long && !matches!(self.empty(db), Ok(false)) {
                // It is empty, or the broker has failed.
                return;
            }
            self.wake();
        }
        if pages >= self.long_at {
            // While somebody reads an old state the log cannot be moved entirely: not again before it grew by as much.
            self.long_at = pages + self.long;
            move_log(db, CheckpointMode::PASSIVE, &self.log, &self.condition);
        }
    }

    /// Why nothing new may be taken in, if so. To be called between two transactions of the writer: a log that takes up
    /// what is missing is emptied first, also when nothing else happens.
    ///
    /// # Errors
    /// The log could not be synced or moved, which is final, and nothing may be committed.
    pub(super) fn shortage(&mut self, db: &Connection, directory: &Path) -> rusqlite::Result<Option<String>> {
        let shortage = room::shortage(directory, self.log.outstanding());
        if shortage.is_some() && self.log.pages() > 0 && self.empty(db)? {
            return Ok(room::shortage(directory, self.log.outstanding()));
        }
        Ok(shortage)
    }

    /// Moves everything and gives the log's room back. Says whether that was done: not while somebody reads an old state
    /// for longer than the writer may wait, and not again at once.
    ///
    /// # Errors
    /// As for [`Self::shortage`]; it was noted.
    fn empty(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        if Instant::now() < self.empty_from {
            return Ok(false);
        }
        let emptied = waiting_for(db, EMPTYING_WAIT, || db.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::TRUNCATE));
        self.empty_from = Instant::now() + EMPTYING_PAUSE;
        if let Err(error) = emptied {
            let fault = SqliteFault::of(&error);
            self.condition.note(&fault);
            return if matches!(fault, SqliteFault::Final(_)) { Err(error) } else { Ok(false) };
        }
        self.log.set_pages(0);
        self.seen = 0;
        self.begin_anew();
        Ok(true)
    }

    fn begin_anew(&mut self) {
        self.log.set_moved(0);
        self.woken_at = 0;
        self.long_at = self.long;
    }

    /// Has the thread move what it can.
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // If the thread is behind, one call is enough.
            let _ = wake.try_send(());
        }
    }

    /// Moves everything and empties the log, if nobody reads. The log is removed when the connection is closed, so that
    /// the database is one file.
    pub(super) fn finish(&mut self, db: &Connection) {
        self.end();
        move_log(db, CheckpointMode::TRUNCATE, &self.log, &self.condition);
        if self.condition.usable().is_ok()
            && let Err(error) = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        {
            tracing::debug!("the empty log stays: {error}");
        }
    }

    /// Moves everything that a log holds whose name is gone, and has nothing committed afterwards.
    fn save(&mut self, db: &Connection) {
        self.end();
        if let Err(error) = db.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::FULL) {
            tracing::error!("the log of the embedded store was removed, and not all that it held was saved: {error}");
        }
        self.condition.note(&SqliteFault::Final(NOT_IN_PLACE.into()));
    }

    fn end(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that moves the log of the embedded store panicked");
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(db: &Connection, woken: &Receiver<()>, log: &WalProgress, condition: &StoreCondition) {
    while woken.recv().is_ok() {
        if condition.usable().is_err() {
            return;
        }
        move_log(db, CheckpointMode::PASSIVE, log, condition);
    }
}

fn move_log(db: &Connection, mode: CheckpointMode, log: &WalProgress, condition: &StoreCondition) {
    match db.wal_checkpoint_v2(Some(MAIN_DB), mode) {
        Ok((_, moved)) => log.set_moved(i64::from(moved)),
        Err(error) => condition.note(&SqliteFault::of(&error)),
    }
}

/// Does something that waits for others, for another time than the connection otherwise waits.
fn waiting_for<T>(db: &Connection, time: Duration, act: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let usual_ms: u32 = db.pragma_query_value(None, "busy_timeout", |row| row.get(0))?;
    db.busy_timeout(time)?;
    let done = act();
    db.busy_timeout(Duration::from_millis(u64::from(usual_ms)))?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::schema::{self, ConnectionPurpose, connect};

    /// Reads without a pause, so that at every moment somebody is at a state that was the last one a moment ago.
    fn read_until(path: &Path, stop: &AtomicBool) {
        let readers = [(); 2].map(|()| connect(path, ConnectionPurpose::Read).unwrap());
        let begin = |db: &Connection| {
            db.execute_batch("BEGIN").unwrap();
            let slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
                        SELECT count(*) + (SELECT count(*) FROM total) FROM n";
            db.query_row(slow, [], |row| row.get::<_, i64>(0)).unwrap();
        };
        begin(&readers[0]);
        for turn in (0..2).cycle() {
            begin(&readers[1 - turn]);
            readers[turn].execute_batch("COMMIT").unwrap();
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Readers that never pause kept the log from being begun anew, and it grew for as long as they went on.
    #[test]
    fn the_log_stays_short_however_many_read() {
        const MAX_PAGES: i64 = 100_000;
        let dir = tempfile::tempdir().unwrap();
        let directory = Arc::new(StoreDirectory::lock(dir.path()).unwrap());
        let path = directory.database();
        let mut db = schema::open(&path).unwrap();
        db.execute_batch("CREATE TABLE large (number INTEGER PRIMARY KEY, bytes BLOB)").unwrap();
        let log = WalProgress::default();
        let hooked = log.clone();
        db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            hooked.set_pages(i64::from(pages));
            Ok(())
        }))
        .unwrap();
        let moving = connect(&path, ConnectionPurpose::Read).unwrap();
        let mut checkpoints = Checkpointer::start(moving, log.clone(), directory, StoreCondition::default()).unwrap();
        checkpoints.long = 256;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| read_until(&path, &stop));
            let mut times_emptied = 0;
            while times_emptied < 3 {
                db.execute("REPLACE INTO large VALUES (abs(random()) % 8, zeroblob(400000))", []).unwrap();
                let pages = log.pages();
                checkpoints.spread(&db, pages);
                times_emptied += i32::from(log.pages() < pages);
                if pages > MAX_PAGES {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert!(times_emptied == 3, "it grew to {} pages", log.pages());
        });
        assert!(std::fs::metadata(log_of(&path)).unwrap().len() < MAX_PAGES.unsigned_abs() * schema::PAGE_BYTES);
    }

    #[test]
    fn what_was_moved_is_not_outstanding() {
        let log = WalProgress::default();
        log.set_pages(100);
        assert_eq!(log.outstanding(), 100);
        log.set_moved(70);
        assert_eq!(log.outstanding(), 30);
        log.set_pages(20);
        assert_eq!(log.outstanding(), 20, "it was begun anew");
    }
}
