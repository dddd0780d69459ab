//! A file that gets its name only when it is complete.
//!
//! Until then it has a unique name beside its target, so that two programs that write the same file do not mix their
//! output. It is locked while it is written. An unlocked one was left by a program that ended; the next program that
//! writes the same file removes it. Only its owner may read it, because it holds payloads.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Only the owner may read and write the file.
const MODE: u32 = 0o600;
/// The end of its name until it is complete.
const SUFFIX: &str = ".partial";

/// A file that is being written.
pub(super) struct PartialFile {
    writer: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
}

impl PartialFile {
    /// Starts to write a file, and removes what earlier programs left. An existing file stays until [`Self::finish`].
    ///
    /// # Errors
    /// The path names no file, or the system cannot create one there.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?.to_string_lossy();
        let prefix = format!(".{name}.");
        remove_leftovers(directory_of(path), &prefix);
        loop {
            let partial = path.with_file_name(format!("{prefix}{:016x}{SUFFIX}", fastrand::u64(..)));
            let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&partial)?;
            // The umask may have removed rights of the owner.
            file.set_permissions(Permissions::from_mode(MODE))?;
            match file.try_lock() {
                // Another program removed the file before this one locked it.
                Err(TryLockError::WouldBlock) => continue,
                Ok(()) if file.metadata()?.nlink() == 0 => continue,
                // Where files cannot be locked, none is removed either.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            return Ok(Self { writer: BufWriter::new(file), partial, path: path.to_owned() });
        }
    }

    /// Returns the writer of the file.
    pub(super) fn writer(&mut self) -> &mut dyn Write {
        &mut self.writer
    }

    /// Gives the file its name. The file is durable then.
    ///
    /// # Errors
    /// Those of the system. The incomplete file is removed, and an existing file stays.
    pub(super) fn finish(self) -> io::Result<()> {
        let Self { writer, partial, path } = self;
        let finished = writer.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| {
            file.sync_all()?;
            fs::rename(&partial, &path)
        });
        if finished.is_err() {
            remove_quietly(&partial);
        }
        finished?;
        File::open(directory_of(&path))?.sync_all()
    }

    /// Removes the incomplete file.
    pub(super) fn abandon(self) {
        remove_quietly(&self.partial);
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes incomplete files that programs left in a directory.
fn remove_leftovers(directory: &Path, prefix: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let middle =
            name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|rest| rest.strip_suffix(SUFFIX));
        let is_ours = middle.is_some_and(|middle| middle.len() == 16 && middle.chars().all(|c| c.is_ascii_hexdigit()));
        if is_ours
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(file) = OpenOptions::new().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            remove_quietly(&entry.path());
        }
    }
}

fn remove_quietly(partial: &Path) {
    // The next program removes a file that stays.
    let _ = fs::remove_file(partial);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn two_that_write_one_file_each_leave_it_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        fs::write(&path, "the one before").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let [mut first, mut second] = [(); 2].map(|()| PartialFile::create(&path).unwrap());
        first.writer().write_all(b"first").unwrap();
        second.writer().write_all(b"the second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"the one before");
        first.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        second.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"the second");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(names(dir.path()), ["events"]);
    }

    #[test]
    fn the_next_writer_removes_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let abandoned = PartialFile::create(&path).unwrap();
        let partial = abandoned.partial.clone();
        drop(abandoned);
        let theirs = [".events.0.partial", ".other.0123456789abcdef.partial"];
        theirs.iter().for_each(|name| fs::write(dir.path().join(name), "").unwrap());
        let writing = PartialFile::create(&path).unwrap();
        assert!(!partial.exists());
        PartialFile::create(&path).unwrap().abandon();
        assert!(writing.partial.exists(), "it is being written");
        writing.abandon();
        assert_eq!(names(dir.path()), theirs);
    }
}
