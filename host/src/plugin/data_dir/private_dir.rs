//! A private directory: only the user of this process can have written what is read from it.
//!
//! It belongs to that user, is closed to all others, and is not a symbolic link. Its files are opened relative to its
//! descriptor, so a path that leads elsewhere by now makes no difference. A file appears whole or not at all.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use rustix::process::geteuid;

/// The beginning of the names of files that are being written.
const TEMPORARY: &str = ".tmp-";
/// After how many seconds such a file counts as left behind by a process that ended.
const ABANDONED_AFTER_SECONDS: i64 = 600;

/// A directory that only the user of this process can read and write.
#[derive(Debug)]
pub(super) struct PrivateDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// A file in a private directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileFacts {
    /// The name.
    pub(super) name: String,
    /// The size.
    pub(super) size_bytes: u64,
    /// When it was last written or [touched](PrivateDir::touch), in seconds and nanoseconds.
    pub(super) used: (i64, i64),
}

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub(in crate::plugin) enum NotPrivate {
    /// The system refuses it.
    #[error("{0:?} cannot be made or opened: {1}")]
    Unavailable(PathBuf, io::Error),
    /// It is a symbolic link, or not a directory at all.
    #[error("{0:?} is a symbolic link or no directory; name the directory itself")]
    NotADirectory(PathBuf),
    /// It belongs to another user.
    #[error("{0:?} belongs to user {1} and this server runs as user {2}; give it a directory of its own")]
    Foreign(PathBuf, u32, u32),
    /// Other users may enter, read or write.
    #[error("{0:?} is open to other users (mode {1:o}); close it by chmod 700")]
    Open(PathBuf, u32),
}

impl PrivateDir {
    /// Opens a directory, and makes it if it is missing. Blocks.
    ///
    /// # Errors
    /// See [`NotPrivate`].
    pub(super) fn open(path: &Path) -> Result<Self, NotPrivate> {
        // With a slash at the end, the open would follow a link.
        let path: PathBuf = path.components().collect();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        let fd = match rustix::fs::open(&path, directory_flags(), Mode::empty()) {
            Err(Errno::NOENT) => return Err(NotPrivate::Unavailable(path, made.err().unwrap_or(Errno::NOENT.into()))),
            opened => opened,
        };
        Self::checked(fd, path)
    }

    /// Opens a directory in this one, and makes it if it is missing. Blocks.
    ///
    /// # Errors
    /// See [`NotPrivate`].
    pub(super) fn open_inner(&self, name: &str) -> Result<Self, NotPrivate> {
        let path = self.path.join(name);
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(NotPrivate::Unavailable(path, error.into())),
        }
        Self::checked(rustix::fs::openat(&self.fd, name, directory_flags(), Mode::empty()), path)
    }

    fn checked(fd: rustix::io::Result<OwnedFd>, path: PathBuf) -> Result<Self, NotPrivate> {
        let fd = match fd {
            Ok(fd) => fd,
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(NotPrivate::NotADirectory(path)),
            Err(error) => return Err(NotPrivate::Unavailable(path, error.into())),
        };
        let stat = match rustix::fs::fstat(&fd) {
            Ok(stat) => stat,
            Err(error) => return Err(NotPrivate::Unavailable(path, error.into())),
        };
        let (owner, ours) = (stat.st_uid, geteuid().as_raw());
        if owner != ours {
            return Err(NotPrivate::Foreign(path, owner, ours));
        }
        if is_open_to_others(&stat) {
            return Err(NotPrivate::Open(path, stat.st_mode & 0o7777));
        }
        let dir = Self { fd, path };
        dir.remove_abandoned();
        Ok(dir)
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A file's content; `None` if there is no such file. Blocks.
    ///
    /// # Errors
    /// It cannot be read, is larger than `limit_bytes`, or is not a private regular file.
    pub(super) fn read(&self, name: &str, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        // Does not wait for the writer of a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a regular file"));
        }
        if stat.st_uid != geteuid().as_raw() || is_open_to_others(&stat) {
            return Err(io::Error::other("it is another user's or open to others"));
        }
        let mut content = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(1 << 28));
        File::from(fd).take(limit_bytes.saturating_add(1)).read_to_end(&mut content)?;
        if content.len() as u64 > limit_bytes {
            return Err(io::Error::other(format!("it has more than {limit_bytes} bytes")));
        }
        Ok(Some(content))
    }

    /// Writes a file of these parts, and replaces one of the same name. The file is on disk when this returns. Blocks.
    ///
    /// # Errors
    /// Those of the system; then the file before is unchanged.
    pub(super) fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let temporary = format!("{TEMPORARY}{:016x}", fastrand::u64(..));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.fd, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
        let written = parts
            .iter()
            .try_for_each(|part| file.write_all(part))
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(rustix::fs::renameat(&self.fd, &temporary, &self.fd, name)?));
        if written.is_err() {
            // A file that is left behind is removed at a later start.
            let _ = self.remove(&temporary);
        }
        written.and_then(|()| Ok(rustix::fs::fsync(&self.fd)?))
    }

    /// Removes a file. Blocks.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Sets the time of last use to now. Blocks.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn touch(&self, name: &str) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        Ok(rustix::fs::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The regular files, without those that are being written. Blocks.
    ///
    /// # Errors
    /// Those of the system for the directory.
    pub(super) fn files(&self) -> io::Result<Vec<FileFacts>> {
        let mut files = self.all_files()?;
        files.retain(|file| !file.name.starts_with(TEMPORARY));
        Ok(files)
    }

    fn all_files(&self) -> io::Result<Vec<FileFacts>> {
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Ok(stat) = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
                let used = (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
                files.push(FileFacts { name: name.to_owned(), size_bytes, used });
            }
        }
        Ok(files)
    }

    /// Removes files that were being written when a process ended.
    fn remove_abandoned(&self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let oldest = i64::try_from(now.as_secs()).unwrap_or(i64::MAX) - ABANDONED_AFTER_SECONDS;
        for file in self.all_files().unwrap_or_default() {
            if file.name.starts_with(TEMPORARY) && file.used.0 < oldest {
                // Such a file does no harm but takes space.
                let _ = self.remove(&file.name);
            }
        }
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn is_open_to_others(stat: &Stat) -> bool {
    stat.st_mode & 0o077 != 0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn new_directories_and_files_are_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/");
        let dir = PrivateDir::open(&path).unwrap();
        dir.open_inner("c").unwrap().write("file", &[b"12", b"3"]).unwrap();
        assert_eq!((mode(&path), mode(&path.join("c")), mode(&path.join("c/file"))), (0o700, 0o700, 0o600));
        let read = |limit_bytes| dir.open_inner("c").unwrap().read("file", limit_bytes);
        assert_eq!(read(3).unwrap().unwrap(), b"123");
        assert!(read(2).unwrap_err().to_string().contains("more than 2 bytes"));
        assert_eq!(dir.open_inner("c").unwrap().files().unwrap().len(), 1, "nothing temporary is left");
        assert_eq!(dir.read("none", 9).unwrap(), None);
    }

    #[test]
    fn a_directory_that_others_could_write_to_is_refused_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        PrivateDir::open(&real).unwrap();
        let link = folder.path().join("link");
        symlink(&real, &link).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        for path in [link.clone(), link.join(""), folder.path().join("file")] {
            assert!(matches!(PrivateDir::open(&path), Err(NotPrivate::NotADirectory(_))), "{path:?}");
        }
        for open in [0o701, 0o740, 0o720, 0o777] {
            fs::set_permissions(&real, fs::Permissions::from_mode(open)).unwrap();
            let words = PrivateDir::open(&real).unwrap_err().to_string();
            assert!(words.contains("chmod 700"), "{words}");
        }
        let dir = PrivateDir::open(&folder.path().join("outer")).unwrap();
        symlink(&real, folder.path().join("outer/inner")).unwrap();
        assert!(matches!(dir.open_inner("inner"), Err(NotPrivate::NotADirectory(_))));
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        if !geteuid().is_root() {
            // Only root can give a directory away. For all other users, / is a directory of another user.
            assert!(matches!(PrivateDir::open(Path::new("/")), Err(NotPrivate::Foreign(..))));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("theirs");
        PrivateDir::open(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let words = PrivateDir::open(&path).unwrap_err().to_string();
        assert!(words.contains("belongs to user 12345"), "{words}");
    }

    #[test]
    fn only_private_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ours");
        let dir = PrivateDir::open(&path).unwrap();
        dir.write("good", &[b"x"]).unwrap();
        symlink(path.join("good"), path.join("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path.join("pipe"), Mode::RWXU).unwrap();
        fs::write(path.join("open"), "x").unwrap();
        fs::set_permissions(path.join("open"), fs::Permissions::from_mode(0o644)).unwrap();
        for name in ["link", "pipe", "open"] {
            assert!(dir.read(name, 9).is_err(), "{name}");
        }
        assert_eq!(dir.read("good", 9).unwrap().unwrap(), b"x");
    }
}
