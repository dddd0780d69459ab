//! The directory of a store, and the lock that gives it one owner.
//!
//! The operating system holds the lock and ends it with the process, so no stale lock remains. The lock does not stop
//! other programs from reading or writing the database.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::connection::PAGE_BYTES;
use super::private_files;
use super::room_reserve::RESERVE;

/// The database within the directory.
const DATABASE: &str = "eventstream.db";
/// The lock within the directory.
const LOCK: &str = "lock";
/// The data directory of the plugins, which is beside the database by default.
const PLUGINS: &str = "plugins";
/// The name of a backup until it is complete.
const PARTIAL: &str = "eventstream.db.partial";
/// Every file that a store or a backup may have, in the order in which their modes are restricted.
const FILES: [&str; 8] = [
    LOCK,
    DATABASE,
    "eventstream.db-wal",
    "eventstream.db-shm",
    "eventstream.db-journal",
    PARTIAL,
    "eventstream.db.partial-journal",
    RESERVE,
];

/// The reason of a store whose files are not the ones that were opened; see [`StoreDirectory::identity`].
pub(in crate::broker::embedded) const NOT_IN_PLACE: &str = "the database was removed or replaced while it was in use";

/// A locked directory. Dropping it unlocks it.
#[derive(Debug)]
pub(in crate::broker::embedded) struct StoreDirectory {
    path: PathBuf,
    /// Locked. Its text is the high-water mark.
    lock: File,
}

/// Why a directory cannot be used.
#[derive(Debug)]
pub(in crate::broker::embedded) enum DirectoryError {
    InUse,
    Io(io::Error),
}

impl From<io::Error> for DirectoryError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl StoreDirectory {
    /// Locks the directory, and creates it if it is missing. Only the owner may use it and the store's files
    /// afterwards; see [`private_files`].
    pub(in crate::broker::embedded) fn lock(path: &Path) -> Result<Self, DirectoryError> {
        if !path.is_dir() {
            private_files::create_directory(path)?;
            let made = path.canonicalize()?;
            if let Some(parent) = made.parent() {
                sync(parent)?;
            }
        }
        let path = path.canonicalize()?;
        private_files::restrict_directory(&path, &[&FILES[..], &[PLUGINS]].concat());
        private_files::restrict_files(&path, &FILES);
        let lock = lock_file(&path.join(LOCK))?;
        Ok(Self { path, lock })
    }

    /// Creates the database as an empty file that only its owner may use, unless it exists.
    pub(in crate::broker::embedded) fn create_database(&self) -> io::Result<()> {
        match private_files::create_file(&self.database()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Unlocks the directory and removes the lock file. Write nothing afterwards.
    pub(in crate::broker::embedded) fn remove_lock(self) -> io::Result<()> {
        // While it is locked, so that no other process can hold it.
        fs::remove_file(self.path.join(LOCK))
    }

    /// Unlocks the directory before the drop. Write nothing afterwards.
    pub(in crate::broker::embedded) fn unlock(&self) -> io::Result<()> {
        self.lock.unlock()
    }

    /// The path of the directory.
    pub(in crate::broker::embedded) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the database.
    pub(in crate::broker::embedded) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// The path of a backup until it is complete.
    pub(in crate::broker::embedded) fn partial(&self) -> PathBuf {
        self.path.join(PARTIAL)
    }

    /// The path of the write-ahead log.
    pub(in crate::broker::embedded) fn log(&self) -> PathBuf {
        log_of(&self.database())
    }

    /// Whether the database ends within a page and no log can complete it: then its end is missing.
    pub(in crate::broker::embedded) fn is_truncated(&self) -> bool {
        let length = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
        length(self.log()) == 0 && length(self.database()) % PAGE_BYTES != 0
    }

    /// Syncs the directory, which makes the names of new files durable.
    pub(in crate::broker::embedded) fn sync(&self) -> io::Result<()> {
        sync(&self.path)
    }

    /// The text of the lock file.
    pub(in crate::broker::embedded) fn read_note(&self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.path.join(LOCK))?).into_owned())
    }

    /// Replaces the text of the lock file, without a sync.
    pub(in crate::broker::embedded) fn write_note(&self, text: &str) -> io::Result<()> {
        // In this order, so that the file begins with a whole note at every moment.
        self.lock.write_all_at(text.as_bytes(), 0)?;
        self.lock.set_len(text.len() as u64)
    }

    /// What distinguishes the present files from others of the same names.
    pub(in crate::broker::embedded) fn identity(&self) -> io::Result<StoreIdentity> {
        let of = |path: PathBuf| fs::metadata(path).map(|file| (file.dev(), file.ino()));
        Ok(StoreIdentity { database: of(self.database())?, log: of(self.log())? })
    }

    /// Whether only the log was removed, and the database is the one that was opened.
    pub(in crate::broker::embedded) fn lacks_only_log(&self, opened: &StoreIdentity) -> bool {
        let is_same = |file: fs::Metadata| (file.dev(), file.ino()) == opened.database;
        fs::metadata(self.database()).is_ok_and(is_same)
            && fs::metadata(self.log()).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}

impl Drop for StoreDirectory {
    /// Unlocks explicitly: closing is not enough while a child process that is just starting holds a copy of the
    /// descriptor.
    fn drop(&mut self) {
        // If this fails, closing the file is all that remains.
        let _ = self.lock.unlock();
    }
}

/// The identity of a store's files; see [`StoreDirectory::identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker::embedded) struct StoreIdentity {
    database: (u64, u64),
    log: (u64, u64),
}

/// Opens and locks a lock file, and creates it if it is missing.
fn lock_file(path: &Path) -> Result<File, DirectoryError> {
    loop {
        let lock = match private_files::create_file(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match OpenOptions::new().read(true).write(true).open(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    opened => opened?,
                }
            }
            made => made?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DirectoryError::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // Its owner may have removed it since it was opened. Then the lock excludes nobody: try again.
        let opened = lock.metadata()?;
        if fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())) {
            return Ok(lock);
        }
    }
}

/// Syncs a directory.
pub(in crate::broker::embedded) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The path of a database's write-ahead log.
pub(in crate::broker::embedded) fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// The path of the database within a directory that is not locked.
pub(in crate::broker::embedded) fn database_in(directory: &Path) -> PathBuf {
    directory.join(DATABASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_is_free_when_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er");
        let first = StoreDirectory::lock(&path).unwrap();
        assert!(matches!(StoreDirectory::lock(&path), Err(DirectoryError::InUse)));
        assert_eq!(first.read_note().unwrap(), "");
        first.write_note("e 12 345\n").unwrap();
        first.write_note("e 12 34\n").unwrap();
        drop(first);
        assert_eq!(StoreDirectory::lock(&path).unwrap().read_note().unwrap(), "e 12 34\n");
    }

    #[test]
    fn a_lock_that_was_removed_keeps_nobody_out_and_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let first = StoreDirectory::lock(dir.path()).unwrap();
        let waiting = OpenOptions::new().read(true).write(true).open(dir.path().join(LOCK)).unwrap();
        first.remove_lock().unwrap();
        waiting.try_lock().unwrap();
        let second = StoreDirectory::lock(dir.path()).unwrap();
        assert!(matches!(StoreDirectory::lock(dir.path()), Err(DirectoryError::InUse)));
        drop(second);
    }
}
