//! Keeps the files of a store for their owner alone, whatever the umask and the mode of the directory are.
//!
//! Payloads stand in these files in the clear. Who may read a file may also lock it, which stops the store or keeps it
//! from starting. SQLite gives the log and its index the mode of the database.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::process::geteuid;

/// The mode of a file that only its owner may use.
const FILE_MODE: u32 = 0o600;
/// The mode of a directory that only its owner may use.
const DIRECTORY_MODE: u32 = 0o700;
/// What group and others may do.
const OTHERS: u32 = 0o077;
/// That group or others may make and remove files.
const OTHERS_WRITE: u32 = 0o022;
/// In a directory with this bit only the owner of a file may remove it, as in `/tmp`.
const STICKY: u32 = 0o1000;

/// Makes a directory and those above it, for its owner alone.
///
/// # Errors
/// Those of the system.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    // The umask may have taken rights from the owner as well.
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
}

/// Makes a file that was not there, for its owner alone.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if it is there, also as a link; those of the system.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Closes a directory in which others may replace files, if it is ours and holds nothing but these files. Logs what it
/// did, and what it could not do.
pub(super) fn close_directory(path: &Path, files: &[&str]) {
    let Ok(found) = fs::metadata(path) else { return };
    let mode = found.mode() & 0o7777;
    if mode & OTHERS_WRITE == 0 || mode & STICKY != 0 {
        return;
    }
    if found.uid() == geteuid().as_raw() && holds_only(path, files) && set_mode(path, DIRECTORY_MODE).is_ok() {
        tracing::warn!("{path:?} was open to other users (mode {mode:o}): its mode is {DIRECTORY_MODE:o} now");
    } else {
        tracing::warn!(
            "other users may replace the files in {path:?} (mode {mode:o}): give the store a directory of its own, or \
             close it by chmod 700"
        );
    }
}

/// Closes files that others may use. Those that are not there are left out. Logs what it did, and what it could not do.
pub(super) fn close_files(directory: &Path, files: &[&str]) {
    for path in files.iter().map(|name| directory.join(name)) {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        // A link that somebody else put here must not lead us to a file of ours.
        if found.is_symlink() && found.uid() != geteuid().as_raw() {
            tracing::warn!("{path:?} is a symbolic link of another user: remove it");
            continue;
        }
        let Ok(found) = fs::metadata(&path) else { continue };
        let mode = found.mode() & 0o7777;
        if !found.is_file() || mode & OTHERS == 0 {
            continue;
        }
        match set_mode(&path, FILE_MODE) {
            Ok(()) => tracing::warn!(
                "{path:?} was open to other users (mode {mode:o}): its mode is {FILE_MODE:o} now; who opened it before \
                 can still use it"
            ),
            Err(error) => tracing::warn!(
                "{path:?} is open to other users (mode {mode:o}) and cannot be closed ({error}): its owner can, by \
                 chmod 600"
            ),
        }
    }
}

/// By its name: opening and closing the database would end the locks that this process has on it.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn holds_only(directory: &Path, files: &[&str]) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| files.iter().any(|name| entry.file_name() == *name)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn make(path: &Path, mode: u32) {
        fs::write(path, "x").unwrap();
        set_mode(path, mode).unwrap();
    }

    #[test]
    fn files_that_lie_open_are_closed_and_others_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("a", 0o666), ("b", 0o640), ("c", 0o400), ("theirs", 0o644)] {
            make(&dir.path().join(name), mode);
        }
        close_files(dir.path(), &["a", "b", "c", "not-there"]);
        let modes = ["a", "b", "c", "theirs"].map(|name| mode(&dir.path().join(name)));
        assert_eq!(modes, [0o600, 0o600, 0o400, 0o644]);
    }

    #[test]
    fn a_directory_in_which_others_may_write_is_closed_if_nothing_else_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        for (before, after) in [(0o777, 0o700), (0o730, 0o700), (0o755, 0o755), (0o1777, 0o1777), (0o700, 0o700)] {
            set_mode(dir.path(), before).unwrap();
            close_directory(dir.path(), &["a"]);
            assert_eq!(mode(dir.path()), after, "{before:o}");
        }
        make(&dir.path().join("theirs"), 0o644);
        set_mode(dir.path(), 0o777).unwrap();
        close_directory(dir.path(), &["a"]);
        assert_eq!(mode(dir.path()), 0o777, "what is somebody else's as well stays as it is");
    }

    #[test]
    fn what_is_made_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (made, file) = (dir.path().join("deep/er"), dir.path().join("deep/er/file"));
        create_directory(&made).unwrap();
        create_file(&file).unwrap();
        assert_eq!((mode(&made), mode(&file)), (0o700, 0o600));
        assert_eq!(create_file(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
