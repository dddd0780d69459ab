//! A copy of the store that opens, made while the broker works.
//!
//! The copy is of one moment: what was committed when it began, whole, and nothing after. It may be made by the process
//! that owns the store or by any other on the machine. It is written under another name, read through, synced, and only
//! then given the name of a database, so that a copy that was interrupted is never taken for one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::clock;

use super::directory::{DirectoryError, StoreDirectory, database_in};
use super::private;
use super::schema::{ConnectionPurpose, SchemaError, check, connect};

/// Pages between two reports of progress: 4 MiB.
const PAGES_AT_A_TIME: i32 = 1_024;

/// The name of the row of a copy that says when it was made. Who serves the copy lacks what came afterwards, and is told so
/// once (G11).
pub(super) const COPIED: &str = "copied";

/// Why there is no copy. Nothing is left behind but the directory.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no store to be copied.
    #[error("there is no store in {0:?}")]
    NoStore(PathBuf),
    /// The place is taken; a copy never overwrites anything.
    #[error("there is a store in {0:?} already: name an empty or a new directory")]
    Taken(PathBuf),
    /// Another copy is being made there.
    #[error("another backup to {0:?} is under way: wait for its end, or name another directory")]
    UnderWay(PathBuf),
    /// The copy could not be written.
    #[error("the copy cannot be written")]
    Write(#[from] io::Error),
    /// The store could not be read, or what came of it is damaged.
    #[error("the store cannot be copied: {0}")]
    Read(String),
}

impl From<rusqlite::Error> for BackupError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Read(error.to_string())
    }
}

/// Copies the store in one directory to another, which is made if it is missing. `progress` is told the bytes that are
/// copied and those that there are. Blocks until the copy is durable; the store goes on working meanwhile, though its log
/// grows for as long as it takes.
///
/// # Errors
/// See [`BackupError`]. Trying again may help once the reason is gone.
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
    // Another copy may have been made since it was looked for.
    let copied = if place.database().exists() { Err(taken()) } else { copy_to(&place, &source, &mut progress) };
    // A copy is one file. Of a lock that cannot be removed nothing follows.
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
    private::create_file(partial)?;
    let source = connect(source, ConnectionPurpose::Copy)?;
    // While this read lasts the copy sees one state, whatever is committed meanwhile.
    let snapshot = source.unchecked_transaction()?;
    let page_bytes: u64 = snapshot.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?.unsigned_abs();
    snapshot.query_row("SELECT count(*) FROM store", [], |row| row.get::<_, i64>(0))?;
    {
        let mut copy = Connection::open(partial)?;
        // Nobody depends on the copy before it is whole: it is synced once, at the end.
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
                _ => return Err(BackupError::Read("another program holds the copy".into())),
            }
        }
    }
    drop(snapshot);
    let copy = Connection::open(partial)?;
    // One file, with no log beside it.
    copy.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get::<_, String>(0))?;
    copy.execute("REPLACE INTO store (name, value) VALUES (?1, ?2)", (COPIED, clock::now().unix_ms()))?;
    check(&copy).map_err(|error: SchemaError| BackupError::Read(error.to_string()))?;
    copy.close().map_err(|(_, error)| error)?;
    File::open(partial)?.sync_all()?;
    Ok(())
}

/// Removes what an interrupted copy left.
fn remove(partial: &Path) {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let mut name = partial.as_os_str().to_owned();
        name.push(suffix);
        // What is not there need not be removed; what cannot be will be said by the next write.
        let _ = fs::remove_file(name);
    }
}
