//! Private files: only their owner may use the files of a store, whatever the umask and the mode of the directory are.
//!
//! The files hold payloads in the clear. A user who may read a file may also lock it, which stops the store. SQLite
//! gives the log and its index the mode of the database.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::process::geteuid;

/// The mode of a file that only its owner may use.
const FILE_MODE: u32 = 0o600;
/// The mode of a directory that only its owner may use.
const DIRECTORY_MODE: u32 = 0o700;
/// The rights of group and others.
const OTHERS: u32 = 0o077;
/// The right of group or others to create and remove files.
const OTHERS_WRITE: u32 = 0o022;
/// The bit of a directory in which only the owner of a file may remove it, as in `/tmp`.
const STICKY: u32 = 0o1000;

/// Creates a directory and its parents. Only their owner may use them.
///
/// # Errors
/// Those of the system.
pub(in crate::broker::embedded) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    // The umask may have removed rights of the owner as well.
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
}

/// Creates a file that only its owner may use.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if the file or a link of that name exists; those of the system.
pub(in crate::broker::embedded) fn create_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Restricts a directory in which other users may replace files, if it is ours and holds only these files. Logs the
/// change, or why there is none.
pub(in crate::broker::embedded) fn restrict_directory(path: &Path, files: &[&str]) {
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

/// Restricts those of the files that exist and that other users may use. Logs the change, or why there is none.
pub(in crate::broker::embedded) fn restrict_files(directory: &Path, files: &[&str]) {
    for path in files.iter().map(|name| directory.join(name)) {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        // Do not follow a link that another user created: it may lead to one of our files.
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
                "{path:?} was open to other users (mode {mode:o}): its mode is {FILE_MODE:o} now; a program that \
                 opened it before can still use it"
            ),
            Err(error) => tracing::warn!(
                "{path:?} is open to other users (mode {mode:o}) and cannot be closed ({error}): its owner can, by \
                 chmod 600"
            ),
        }
    }
}

/// Sets the mode by the name of the file: to open and close the database would end this process's locks on it.
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
        restrict_files(dir.path(), &["a", "b", "c", "not-there"]);
        let modes = ["a", "b", "c", "theirs"].map(|name| mode(&dir.path().join(name)));
        assert_eq!(modes, [0o600, 0o600, 0o400, 0o644]);
    }

    #[test]
    fn a_directory_in_which_others_may_write_is_closed_if_nothing_else_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        for (before, after) in [(0o777, 0o700), (0o730, 0o700), (0o755, 0o755), (0o1777, 0o1777), (0o700, 0o700)] {
            set_mode(dir.path(), before).unwrap();
            restrict_directory(dir.path(), &["a"]);
            assert_eq!(mode(dir.path()), after, "{before:o}");
        }
        make(&dir.path().join("theirs"), 0o644);
        set_mode(dir.path(), 0o777).unwrap();
        restrict_directory(dir.path(), &["a"]);
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
