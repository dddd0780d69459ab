//! The directory that a store lives in, and the lock that makes it one broker's own.
//!
//! The lock is the operating system's: it ends with the process, however that ends, and no stale lock is ever left. It
//! does not keep other programs from reading the database, and cannot keep them from writing to it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::memory::HighWater;
use super::private;
use super::schema::PAGE_BYTES;

/// The database within the directory.
const DATABASE: &str = "eventstream.db";
/// The lock within the directory.
const LOCK: &str = "lock";
/// What is kept of plugins stands beside the database, unless it was told otherwise.
const PLUGINS: &str = "plugins";
/// What a copy is called until it is whole.
const PARTIAL: &str = "eventstream.db.partial";
/// Every file that a store or a copy may have, in the order in which they are closed to others.
const FILES: [&str; 7] = [
    LOCK,
    DATABASE,
    "eventstream.db-wal",
    "eventstream.db-shm",
    "eventstream.db-journal",
    PARTIAL,
    "eventstream.db.partial-journal",
];

/// What is said when the files are not those that were opened; see [`Directory::identity`].
pub(super) const NOT_IN_PLACE: &str = "the database was removed or replaced while it was in use";

/// A directory that is locked for as long as this lives.
#[derive(Debug)]
pub(super) struct StoreDirectory {
    path: PathBuf,
    /// Locked. Its text is a [`Memory`].
    lock: File,
}

/// Why a directory cannot be used.
#[derive(Debug)]
pub(super) enum DirectoryError {
    InUse,
    Io(io::Error),
}

impl From<io::Error> for DirectoryError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl StoreDirectory {
    /// Makes the directory if it is missing, for its owner alone, and locks it. Files of a store that lie open to others
    /// are closed; see [`private`].
    pub(super) fn lock(path: &Path) -> Result<Self, DirectoryError> {
        if !path.is_dir() {
            private::create_directory(path)?;
            let made = path.canonicalize()?;
            if let Some(parent) = made.parent() {
                sync(parent)?;
            }
        }
        let path = path.canonicalize()?;
        private::close_directory(&path, &[&FILES[..], &[PLUGINS]].concat());
        private::close_files(&path, &FILES);
        let lock = lock_file(&path.join(LOCK))?;
        Ok(Self { path, lock })
    }

    /// Makes the file of the database, empty and for its owner alone, unless it is there.
    pub(super) fn create_database(&self) -> io::Result<()> {
        match private::create_file(&self.database()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives the directory up and leaves no lock in it; nothing may be written afterwards.
    pub(super) fn remove_lock(self) -> io::Result<()> {
        // While it is locked, so that nobody else has it.
        fs::remove_file(self.path.join(LOCK))
    }

    /// Gives the directory up before this is dropped; nothing may be written afterwards.
    pub(super) fn unlock(&self) -> io::Result<()> {
        self.lock.unlock()
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database is.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Where a copy is until it is whole.
    pub(super) fn partial(&self) -> PathBuf {
        self.path.join(PARTIAL)
    }

    /// Where the write-ahead log is.
    pub(super) fn log(&self) -> PathBuf {
        log_of(&self.database())
    }

    /// Whether the database ends within a page though no log is there to mend it: then its end is missing.
    pub(super) fn is_cut(&self) -> bool {
        let length = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
        length(self.log()) == 0 && length(self.database()) % PAGE_BYTES != 0
    }

    /// Makes the names of new files durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        sync(&self.path)
    }

    /// What was last remembered; `None` in a new directory.
    pub(super) fn memory(&self) -> io::Result<Option<HighWater>> {
        Ok(String::from_utf8_lossy(&fs::read(self.path.join(LOCK))?).parse().ok())
    }

    /// Remembers which store this is. Losing it harms nothing, so it is not synced.
    pub(super) fn remember(&self, memory: &HighWater) -> io::Result<()> {
        let text = memory.to_string();
        // In this order, so that there is a memory at every moment.
        self.lock.write_all_at(text.as_bytes(), 0)?;
        self.lock.set_len(text.len() as u64)
    }

    /// What distinguishes the files that are there now from others of the same names.
    pub(super) fn identity(&self) -> io::Result<StoreIdentity> {
        let of = |path: PathBuf| fs::metadata(path).map(|file| (file.dev(), file.ino()));
        Ok(StoreIdentity { database: of(self.database())?, log: of(self.log())? })
    }

    /// Whether the name of the log is gone, while the database is the one that was opened.
    pub(super) fn lacks_only_log(&self, opened: &StoreIdentity) -> bool {
        let is_same = |file: fs::Metadata| (file.dev(), file.ino()) == opened.database;
        fs::metadata(self.database()).is_ok_and(is_same)
            && fs::metadata(self.log()).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}

impl Drop for StoreDirectory {
    /// The lock ends with the last copy of its descriptor, and a process that is just being started holds one for a moment.
    fn drop(&mut self) {
        // Of what cannot be unlocked, closing it is all that is left to do.
        let _ = self.lock.unlock();
    }
}

/// Which files the broker works with; see [`Directory::identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreIdentity {
    database: (u64, u64),
    log: (u64, u64),
}

/// Opens a lock file, which is made if it is missing, and locks it.
fn lock_file(path: &Path) -> Result<File, DirectoryError> {
    loop {
        let lock = match private::create_file(path) {
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
        // Its owner may have removed it since it was opened. Then it keeps nobody out.
        let opened = lock.metadata()?;
        if fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())) {
            return Ok(lock);
        }
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The write-ahead log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// The database within a directory that is not ours.
pub(super) fn database_in(directory: &Path) -> PathBuf {
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
        assert_eq!(first.memory().unwrap(), None);
        let memory = HighWater { epoch: "e".into(), opening: 12, next_number: 34 };
        first.remember(&memory).unwrap();
        drop(first);
        assert_eq!(StoreDirectory::lock(&path).unwrap().memory().unwrap(), Some(memory));
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
