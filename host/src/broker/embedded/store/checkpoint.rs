//! Checkpoints: move the write-ahead log into the database, spread over time and beside the writer.
//!
//! A thread with its own connection copies pages while the writer commits. SQLite restarts the log only after the last
//! page was moved, and under a constant load the thread never catches up. So the writer moves the small rest of a long
//! log itself, between two groups. A reader at that moment prevents the restart. So when the log is twice as long, or
//! the disk is nearly full, the writer waits a moment until the readers are done.
//!
//! A checkpoint that fails with an input or output error is final for the broker, as a failed commit is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB};

use super::connection::PAGE_BYTES;
use super::directory::{NOT_IN_PLACE, StoreDirectory};
use super::disk_space::{DiskRoom, database_room};
use super::fault::{SqliteFault, StoreCondition};
use super::room_reserve::{RoomReserve, RoomUse};

/// The new pages, of 4 KiB each, after which the thread wakes.
const WAKE_PAGES: i64 = 1_024;
/// The pages of a log, 64 MiB, that the writer moves itself.
const LONG_PAGES: i64 = 16 * 1_024;
/// How long the writer waits for readers of old states, to empty the log.
const EMPTYING_WAIT: Duration = Duration::from_millis(50);
/// The pause between two such waits, so that a long read costs at most a tenth of the writer's time.
const EMPTYING_PAUSE: Duration = Duration::from_millis(500);

/// How long the log is, and how much of it the database has. Clones share the values.
#[derive(Clone, Default)]
pub(in crate::broker::embedded) struct WalProgress {
    pages: Arc<AtomicI64>,
    moved: Arc<AtomicI64>,
    is_removed: Arc<AtomicBool>,
}

impl WalProgress {
    /// Notes that the file of the log was removed. An open log can still be read; see [`Checkpointer::after_commit`].
    pub(in crate::broker::embedded) fn set_removed(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
    }

    fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    /// Sets the pages of the log, after a commit.
    pub(in crate::broker::embedded) fn set_pages(&self, pages: i64) {
        self.pages.store(pages, Ordering::Relaxed);
    }

    fn set_moved(&self, pages: i64) {
        self.moved.store(pages, Ordering::Relaxed);
    }

    /// The pages of the log.
    pub(in crate::broker::embedded) fn pages(&self) -> i64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// The bytes that only the log has.
    fn outstanding_bytes(&self) -> u64 {
        self.outstanding().unsigned_abs().saturating_mul(PAGE_BYTES)
    }

    /// The pages that only the log has.
    fn outstanding(&self) -> i64 {
        let (pages, moved) = (self.pages(), self.moved.load(Ordering::Relaxed));
        // If more were moved than there are, the log was restarted since.
        if moved > pages { pages } else { pages - moved }
    }
}

/// The checkpoints, as the writer sees them.
pub(in crate::broker::embedded) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    condition: StoreCondition,
    log: WalProgress,
    reserve: RoomReserve,
    directory: Arc<StoreDirectory>,
    /// The pages of the log after the last commit.
    last_pages: i64,
    /// The pages of the log when the thread was last woken.
    woken_at: i64,
    /// The pages at which the writer moves the log itself.
    long_at: i64,
    /// How many pages the log grows until then.
    long_pages: i64,
    /// When the writer may wait for readers again.
    empty_from: Instant,
}

impl Checkpointer {
    /// Starts the thread with its own connection.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub(in crate::broker::embedded) fn start(
        db: Connection,
        log: WalProgress,
        directory: Arc<StoreDirectory>,
        reserve: RoomReserve,
        condition: StoreCondition,
    ) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let (thread_condition, thread_log, locked) = (condition.clone(), log.clone(), directory.clone());
        let thread = thread::Builder::new().name("embedded-log".into()).spawn(move || {
            run(&db, &woken, &thread_log, &thread_condition);
            drop(db);
            drop(locked);
        })?;
        Ok(Self {
            wake: Some(wake),
            thread: Some(thread),
            condition,
            log,
            reserve,
            directory,
            last_pages: 0,
            woken_at: 0,
            long_at: LONG_PAGES,
            long_pages: LONG_PAGES,
            empty_from: Instant::now(),
        })
    }

    /// Moves what is due after a commit; `pages` is the length of the log. If the file of the log was removed, moves
    /// all of it and fails the store.
    pub(in crate::broker::embedded) fn after_commit(&mut self, db: &Connection, pages: i64) {
        if self.log.is_removed() {
            return self.save_removed_log(db);
        }
        if pages < self.last_pages {
            self.note_restart();
        }
        self.last_pages = pages;
        if pages - self.woken_at >= WAKE_PAGES {
            self.woken_at = pages;
            if pages >= 2 * self.long_pages && !matches!(self.empty(db), Ok(false)) {
                // The log is empty, or the store has failed.
                return;
            }
            self.wake();
        }
        if pages >= self.long_at {
            // While a reader holds an old state the log cannot be moved as a whole. Try again when it has grown as
            // much.
            self.long_at = pages + self.long_pages;
            move_log(db, CheckpointMode::PASSIVE, &self.log, &self.condition);
        }
    }

    /// Why new events must be refused, if the disk is nearly full. Call it between two transactions of the writer. It first
    /// empties a log whose room is needed, and fills the reserve as far as there is room.
    ///
    /// # Errors
    /// The log could not be synced or moved. That is final: commit nothing.
    pub(in crate::broker::embedded) fn shortage(&mut self, db: &Connection) -> rusqlite::Result<Option<String>> {
        let Some(mut room) = DiskRoom::of(self.directory.path()) else { return Ok(None) };
        // The database grows by the whole log at most.
        let may_be_short = room.may_be_short(self.reserve.reserved_bytes(), self.log.outstanding_bytes());
        if may_be_short && self.log.pages() > 0 && self.empty(db)? {
            room = DiskRoom::of(self.directory.path()).unwrap_or(room);
        }
        let log_bytes = self.log.outstanding_bytes();
        let (reserved, path) = (self.reserve.reserved_bytes(), self.directory.database());
        let asked = room.may_be_short(reserved, log_bytes).then(|| database_room(db, &path)).transpose()?;
        let shortage = asked.and_then(|database| room.shortage(reserved, database));
        self.reserve.refill(room.free.saturating_sub(log_bytes));
        Ok(shortage)
    }

    /// Makes room for a step that found the disk full: empties a log that is worth it, or gives a part of the reserve.
    /// False if the step gets no more. Ends with [`Self::end_step`].
    pub(in crate::broker::embedded) fn give_room(&mut self, db: &Connection, room_use: RoomUse) -> bool {
        self.reserve.begin_giving(room_use);
        let log_bytes = self.log.pages().unsigned_abs().saturating_mul(PAGE_BYTES);
        (log_bytes > self.reserve.part_bytes() && self.empty_at_once(db))
            || self.reserve.give(room_use)
            || (log_bytes > 0 && self.empty_at_once(db))
    }

    /// Notes that a step was committed or given up.
    pub(in crate::broker::embedded) fn end_step(&mut self) {
        self.reserve.end_giving();
    }

    fn empty_at_once(&mut self, db: &Connection) -> bool {
        self.empty_from = Instant::now();
        // A final fault is noted, and every later step is refused.
        self.empty(db).unwrap_or(false)
    }

    /// Moves the whole log and truncates it. Returns false if a reader held an old state for longer than the writer
    /// waits, or if the last try was a moment ago.
    ///
    /// # Errors
    /// As for [`Self::shortage`]; the store has failed.
    fn empty(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        if Instant::now() < self.empty_from {
            return Ok(false);
        }
        let emptied = with_busy_timeout(db, EMPTYING_WAIT, || self.truncate_log(db));
        self.empty_from = Instant::now() + EMPTYING_PAUSE;
        if let Err(error) = emptied {
            return if matches!(SqliteFault::classify(&error), SqliteFault::Final(_)) { Err(error) } else { Ok(false) };
        }
        self.log.set_pages(0);
        self.last_pages = 0;
        self.note_restart();
        Ok(true)
    }

    /// Moves the whole log and truncates it. The database may grow by that, so it may use the reserve.
    fn truncate_log(&mut self, db: &Connection) -> rusqlite::Result<()> {
        loop {
            let Err(error) = db.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::TRUNCATE) else { return Ok(()) };
            let fault = SqliteFault::classify(&error);
            self.condition.note(&fault);
            if !matches!(fault, SqliteFault::Full(_)) || !self.reserve.give(RoomUse::Opening) {
                return Err(error);
            }
        }
    }

    fn note_restart(&mut self) {
        self.log.set_moved(0);
        self.woken_at = 0;
        self.long_at = self.long_pages;
    }

    /// Wakes the thread to move what it can.
    pub(in crate::broker::embedded) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // If the channel is full, the thread will wake anyway.
            let _ = wake.try_send(());
        }
    }

    /// Moves and truncates the log, unless somebody reads. Closing the connection then removes the log, so that the
    /// database is one file. The reserve gets the room of the log, so that the next start has it.
    pub(in crate::broker::embedded) fn finish(&mut self, db: &Connection) {
        self.end();
        if self.truncate_log(db).is_ok() {
            self.log.set_pages(0);
            self.note_restart();
        }
        if let Some(room) = DiskRoom::of(self.directory.path()) {
            self.reserve.refill(room.free);
        }
        if self.condition.usable().is_ok()
            && let Err(error) = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        {
            tracing::debug!("the empty log stays: {error}");
        }
    }

    /// Moves the whole content of a log whose file was removed, and fails the store.
    fn save_removed_log(&mut self, db: &Connection) {
        self.end();
        if let Err(error) = db.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::FULL) {
            tracing::error!("the log of the embedded store was removed, and not all of its content was saved: {error}");
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
        Err(error) => condition.note(&SqliteFault::classify(&error)),
    }
}

/// Runs `act` with another busy timeout than the connection usually has.
fn with_busy_timeout<T>(
    db: &Connection,
    time: Duration,
    act: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let usual_ms: u32 = db.pragma_query_value(None, "busy_timeout", |row| row.get(0))?;
    db.busy_timeout(time)?;
    let done = act();
    db.busy_timeout(Duration::from_millis(u64::from(usual_ms)))?;
    done
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::broker::embedded::store::connection::{ConnectionPurpose, PAGE_BYTES, connect};
    use crate::broker::embedded::store::directory::log_of;
    use crate::broker::embedded::store::schema;

    /// Reads without a pause, so that at every moment a reader holds a recent state.
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

    /// Without the wait for readers, constant reads would keep the log from being restarted, and it would grow without
    /// end.
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
        let (reserve, condition) = (RoomReserve::find(dir.path()), StoreCondition::default());
        let mut checkpoints = Checkpointer::start(moving, log.clone(), directory, reserve, condition).unwrap();
        checkpoints.long_pages = 256;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| read_until(&path, &stop));
            let mut times_emptied = 0;
            while times_emptied < 3 {
                db.execute("REPLACE INTO large VALUES (abs(random()) % 8, zeroblob(400000))", []).unwrap();
                let pages = log.pages();
                // A fast machine fills the log within the pause between two tries.
                checkpoints.empty_from = Instant::now();
                checkpoints.after_commit(&db, pages);
                times_emptied += i32::from(log.pages() < pages);
                if pages > MAX_PAGES {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert!(times_emptied == 3, "it grew to {} pages", log.pages());
        });
        assert!(std::fs::metadata(log_of(&path)).unwrap().len() < MAX_PAGES.unsigned_abs() * PAGE_BYTES);
    }

    #[test]
    fn what_was_moved_is_not_outstanding() {
        let log = WalProgress::default();
        log.set_pages(100);
        assert_eq!(log.outstanding(), 100);
        log.set_moved(70);
        assert_eq!(log.outstanding(), 30);
        log.set_pages(20);
        assert_eq!(log.outstanding(), 20, "the log was restarted");
    }
}
