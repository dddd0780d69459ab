//! Opens files that a person or a plugin directory names.
//!
//! Such a path may lead to a named pipe, a device or a socket. Opening a pipe waits for its writer, and a device may never
//! end, so only regular files are opened.

use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file for reading. Refuses anything else without waiting for it. Blocks.
///
/// # Errors
/// Those of the system; or the path leads to no regular file, and the error says to what.
pub fn open(path: &Path) -> io::Result<File> {
    // Checked first, because opening a device may already have an effect.
    require_regular(path.metadata()?.file_type())?;
    // Another file may have taken its place since, so the opened one is checked too.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    require_regular(file.metadata()?.file_type())?;
    Ok(file)
}

/// Reads the text in a regular file. Blocks.
///
/// # Errors
/// As [`open`]; or the file is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    io::read_to_string(open(path)?)
}

/// Refuses what is no regular file.
///
/// # Errors
/// The error says what it is.
pub fn require_regular(file_type: FileType) -> io::Result<()> {
    let what = match file_type {
        it if it.is_file() => return Ok(()),
        it if it.is_dir() => "a directory",
        it if it.is_fifo() => "a named pipe",
        it if it.is_socket() => "a socket",
        _ => "a device",
    };
    Err(io::Error::other(format!("it is {what}, not a regular file")))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_the_refusal_says_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let [file, pipe, link] = ["file", "pipe", "link"].map(|name| dir.path().join(name));
        std::fs::write(&file, "text").unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        assert_eq!(read_to_string(&file).unwrap(), "text");
        for (path, what) in [
            (dir.path(), "it is a directory, not a regular file"),
            (&pipe, "it is a named pipe, not a regular file"),
            (&link, "it is a named pipe, not a regular file"),
            (Path::new("/dev/null"), "it is a device, not a regular file"),
        ] {
            assert_eq!(read_to_string(path).unwrap_err().to_string(), what);
        }
    }
}
