//! The write-ahead log that the last owner left.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB, TransactionBehavior};

use super::directory::log_of;
use super::fault::SqliteFault;

/// Why the log cannot be trusted.
#[derive(Debug)]
pub(in crate::broker::embedded) enum WalError {
    Write(io::Error),
    Move(rusqlite::Error),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for WalError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Rewrites the log that the last owner left, syncs it and moves it into the database. Call it before the first commit,
/// as the owner of the directory.
///
/// After a failed sync the kernel marks the pages as clean that it could not write. They can be read, but later syncs
/// skip them, and a power cut loses them together with all later commits. So the content of the log is written once
/// more.
///
/// # Errors
/// [`WalError::Write`] or [`WalError::Move`]: the log may not be on the disk. Commit nothing.
pub(in crate::broker::embedded) fn recover(db: &mut Connection, database: &Path) -> Result<(), WalError> {
    let log = log_of(database);
    if std::fs::metadata(&log).map_or(0, |file| file.len()) == 0 {
        return Ok(());
    }
    // The transaction keeps other programs from appending. The whole log must be on the disk before the checkpoint
    // changes the database: after a power cut during the checkpoint only the log can repair the database.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    rewrite(&log).map_err(WalError::Write)?;
    drop(transaction);
    match db.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::TRUNCATE) {
        // Another program reads. The log is on the disk, and the store goes on appending to it.
        Err(error) if matches!(SqliteFault::classify(&error), SqliteFault::Busy(_)) => Ok(()),
        moved => moved.map(drop).map_err(WalError::Move),
    }
}

/// Writes every byte of a file again, so that the kernel marks all its pages as dirty, and syncs them.
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
