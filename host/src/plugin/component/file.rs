//! The bytes of a plugin's file and their digest.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::load_error::LoadError;

/// A file's bytes and their digest.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct FileContents {
    pub(in crate::plugin) bytes: Bytes,
    /// The SHA-256 of the bytes, in hexadecimal.
    pub(in crate::plugin) digest: String,
    pub(in crate::plugin) origin: FileOrigin,
}

/// Where bytes came from. They can be dropped while a load waits, and read again afterwards.
#[derive(Clone, Debug)]
pub(in crate::plugin) enum FileOrigin {
    /// From a place that cannot be read again.
    Given,
    /// From a file, with the largest size that is read.
    File(PathBuf, u64),
    /// From the earlier versions of the plugin with this name.
    Version(String),
}

/// Opens a file of a directory that others write to. Refuses devices, and does not wait for the other end of a pipe.
/// Blocks.
///
/// # Errors
/// Those of the system; or it is not a regular file.
pub(in crate::plugin) fn open_regular(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    // Another file may have taken its place since, so the opened one is checked too.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Reads a regular file of at most `limit_bytes`, whatever size the system reports. Blocks.
pub(in crate::plugin) fn read(path: &Path, limit_bytes: u64) -> Result<FileContents, LoadError> {
    let contents = read_opened(open_regular(path)?, limit_bytes)?;
    Ok(FileContents { origin: FileOrigin::File(path.to_owned(), limit_bytes), ..contents })
}

/// Reads an opened file of at most `limit_bytes`. Blocks.
pub(in crate::plugin) fn read_opened(file: File, limit_bytes: u64) -> Result<FileContents, LoadError> {
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(LoadError::TooLarge { limit_bytes });
    }
    Ok(FileContents::new(Bytes::from(bytes)))
}

impl FileContents {
    pub(in crate::plugin) fn new(bytes: Bytes) -> Self {
        let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes, digest, origin: FileOrigin::Given }
    }
}
