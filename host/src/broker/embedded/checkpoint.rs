//! Moves the write-ahead log into the database, spread over time and beside the writer.
//!
//! A thread with a connection of its own copies pages while the writer commits. Under a load that never pauses it cannot
//! catch up with the last page, and only a log that was moved entirely is begun anew; so when the log has grown long the
//! writer moves the small rest itself, between two groups. A checkpoint that fails with an input or output error is final
//! for the broker, as a failed commit is.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB, TransactionBehavior};

use super::directory::{Directory, log_of};
use super::fault::{Condition, Fault};
use super::schema::SchemaError;

/// After so many new pages of 4 KiB the thread is woken.
const WAKE_PAGES: i64 = 1_024;
/// A log of so many pages, 64 MiB, is moved by the writer.
const LONG_PAGES: i64 = 16 * 1_024;

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
        Err(error) if matches!(Fault::of(&error), Fault::Busy(_)) => Ok(()),
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

/// The writer's side.
pub(super) struct Checkpoints {
    wake: Option<SyncSender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    condition: Condition,
    /// The length of the log when the thread was woken last.
    woken_at: i64,
    /// The length at which the writer moves it itself.
    long_at: i64,
}

impl Checkpoints {
    /// Starts the thread on a connection of its own.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(super) fn start(db: Connection, directory: Arc<Directory>, condition: Condition) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let thread_condition = condition.clone();
        let thread = thread::Builder::new().name("embedded-log".into()).spawn(move || {
            run(&db, &woken, &thread_condition);
            drop(db);
            drop(directory);
        })?;
        Ok(Self { wake: Some(wake), thread: Some(thread), condition, woken_at: 0, long_at: LONG_PAGES })
    }

    /// To be called after each commit, with the pages that the log has.
    pub(super) fn spread(&mut self, db: &Connection, pages: i64) {
        if pages < self.woken_at {
            // The log was begun anew.
            self.woken_at = 0;
            self.long_at = LONG_PAGES;
        }
        if pages - self.woken_at >= WAKE_PAGES {
            self.woken_at = pages;
            self.wake();
        }
        if pages >= self.long_at {
            // While somebody reads an old state the log cannot be moved entirely: not again before it grew by as much.
            self.long_at = pages + LONG_PAGES;
            move_log(db, CheckpointMode::PASSIVE, &self.condition);
        }
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
        move_log(db, CheckpointMode::TRUNCATE, &self.condition);
        if self.condition.usable().is_ok()
            && let Err(error) = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        {
            tracing::debug!("the empty log stays: {error}");
        }
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

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(db: &Connection, woken: &Receiver<()>, condition: &Condition) {
    while woken.recv().is_ok() {
        if condition.usable().is_err() {
            return;
        }
        move_log(db, CheckpointMode::PASSIVE, condition);
    }
}

fn move_log(db: &Connection, mode: CheckpointMode, condition: &Condition) {
    if let Err(error) = db.wal_checkpoint_v2(Some(MAIN_DB), mode) {
        condition.note(&Fault::of(&error));
    }
}
