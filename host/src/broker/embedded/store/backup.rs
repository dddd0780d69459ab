//! Backup: a copy of the store, made while the broker works.
//!
//! The copy holds exactly what was committed when it began. Any process on the machine may make it. It gets the name of
//! a database only after it was written, checked and synced, so an interrupted copy is never mistaken for a store.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::clock;

use super::connection::{ConnectionPurpose, connect};
use super::directory::{DirectoryError, StoreDirectory, database_in};
use super::private_files;
use super::schema::{SchemaError, check};

/// The pages between two reports of progress: 4 MiB.
const PAGES_AT_A_TIME: i32 = 1_024;

/// The row of a copy that holds its time. A broker that opens the copy lacks later events, and reports that once (G11).
pub(in crate::broker::embedded) const COPIED: &str = "copied";

/// Why the backup failed. It leaves nothing behind but the directory.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The source is not a store.
    #[error("there is no store in {0:?}")]
    NoStore(PathBuf),
    /// The destination holds a store. A backup never overwrites anything.
    #[error("there is a store in {0:?} already: name an empty or a new directory")]
    Taken(PathBuf),
    /// Another backup to the destination is under way.
    #[error("another backup to {0:?} is under way: wait for its end, or name another directory")]
    UnderWay(PathBuf),
    /// The copy could not be written.
    #[error("the copy cannot be written")]
    Write(#[from] io::Error),
    /// The store could not be read, or the copy is damaged.
    #[error("the store cannot be copied: {0}")]
    Read(String),
}

impl From<rusqlite::Error> for BackupError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Read(error.to_string())
    }
}

/// Copies the store in one directory to another, and creates that if it is missing. Calls `progress` with the bytes
/// copied and the bytes in all. Blocks until the copy is durable. The store works meanwhile, but its log cannot be
/// restarted and grows.
///
/// # Errors
/// See [`BackupError`]. Try again when the reason is gone.
pub fn backup(store: &Path, destination: &Path, mut progress: impl FnMut(u64, u64)) -> Result<(), BackupError> {
    let source = database_in(store);
    if !source.is_file() {
        return Err(BackupError::NoStore(store.to_owned()));
    }
    let taken = || BackupError::Taken(destination.to_owned());
    if database_in(destination).exists() {
        return Err(taken());
    }
    let place = StoreDirectory::lock(destination).map_err(|error| match error {
        DirectoryError::InUse => BackupError::UnderWay(destination.to_owned()),
        DirectoryError::Io(error) => BackupError::Write(error),
    })?;
    // Another backup may have finished before the lock.
    let copied = if place.database().exists() { Err(taken()) } else { copy_to(&place, &source, &mut progress) };
    // A lock file that stays does no harm.
    let _ = place.remove_lock();
    copied
}

fn copy_to(place: &StoreDirectory, source: &Path, progress: &mut impl FnMut(u64, u64)) -> Result<(), BackupError> {
    let partial = place.partial();
    let copied = copy(source, &partial, progress);
    if copied.is_err() {
        remove(&partial);
    }
    copied?;
    fs::rename(&partial, place.database())?;
    Ok(place.sync()?)
}

fn copy(source: &Path, partial: &Path, progress: &mut impl FnMut(u64, u64)) -> Result<(), BackupError> {
    remove(partial);
    private_files::create_file(partial)?;
    let source = connect(source, ConnectionPurpose::Copy)?;
    // The read transaction gives the copy one state, whatever is committed meanwhile.
    let snapshot = source.unchecked_transaction()?;
    let page_bytes: u64 = snapshot.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?.unsigned_abs();
    snapshot.query_row("SELECT count(*) FROM store", [], |row| row.get::<_, i64>(0))?;
    {
        let mut copy = Connection::open(partial)?;
        // One sync at the end is enough: nobody uses the copy before.
        copy.pragma_update(None, "synchronous", "OFF")?;
        let pages = Backup::new(&snapshot, &mut copy)?;
        loop {
            let step = pages.step(PAGES_AT_A_TIME)?;
            let done = pages.progress();
            let bytes = |pages: i32| u64::try_from(pages).unwrap_or_default() * page_bytes;
            progress(bytes(done.pagecount - done.remaining), bytes(done.pagecount));
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => return Err(BackupError::Read("another program locks the copy".into())),
            }
        }
    }
    drop(snapshot);
    let copy = Connection::open(partial)?;
    // So that the copy is one file, without a log.
    copy.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get::<_, String>(0))?;
    copy.execute("REPLACE INTO store (name, value) VALUES (?1, ?2)", (COPIED, clock::now().unix_ms()))?;
    check(&copy).map_err(|error: SchemaError| BackupError::Read(error.to_string()))?;
    copy.close().map_err(|(_, error)| error)?;
    File::open(partial)?.sync_all()?;
    Ok(())
}

/// Removes the files of an interrupted copy.
fn remove(partial: &Path) {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let mut name = partial.as_os_str().to_owned();
        name.push(suffix);
        // The file may not exist. If it cannot be removed, the next write reports it.
        let _ = fs::remove_file(name);
    }
}
