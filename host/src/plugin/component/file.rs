//! The bytes of a plugin's file and their digest.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::load_error::LoadError;
use crate::regular_file;

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

/// Reads a regular file of at most `limit_bytes`, whatever size the system reports. Blocks.
pub(in crate::plugin) fn read(path: &Path, limit_bytes: u64) -> Result<FileContents, LoadError> {
    let mut bytes = Vec::new();
    regular_file::open(path)?.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(LoadError::TooLarge { limit_bytes });
    }
    Ok(FileContents { origin: FileOrigin::File(path.to_owned(), limit_bytes), ..FileContents::new(Bytes::from(bytes)) })
}

impl FileContents {
    pub(in crate::plugin) fn new(bytes: Bytes) -> Self {
        let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes, digest, origin: FileOrigin::Given }
    }
}
