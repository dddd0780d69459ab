//! Why the program could not start, or had to end.

use crate::broker::embedded::{BackupError, EmbeddedOpenError, SnapshotError};
use crate::broker::{self, redis::RedisOpenError};
use crate::transfer;

/// Why the program could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached or is in use. Trying again may help.
    #[error("{0}")]
    Unreachable(String),
    /// A setting of the program or of the store must be changed first.
    #[error("{0}")]
    Refused(String),
    /// Anything else.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl From<RedisOpenError> for Error {
    fn from(error: RedisOpenError) -> Self {
        match error {
            RedisOpenError::Unreachable { .. } | RedisOpenError::Refusing { .. } => {
                Self::Unreachable(error.to_string())
            }
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<EmbeddedOpenError> for Error {
    fn from(error: EmbeddedOpenError) -> Self {
        match error {
            EmbeddedOpenError::InUse(_) | EmbeddedOpenError::Locked(_) | EmbeddedOpenError::Full(_) => {
                Self::Unreachable(error.to_string())
            }
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<transfer::Error> for Error {
    fn from(error: transfer::Error) -> Self {
        match error {
            transfer::Error::Store(broker::Error::Unavailable { .. }) => Self::Unreachable(error.to_string()),
            transfer::Error::Store(broker::Error::Misconfigured(_)) => Self::Refused(error.to_string()),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<SnapshotError> for Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::NoStore(_) => Self::Unreachable(error.to_string()),
            SnapshotError::Database { .. } => Self::Refused(error.to_string()),
        }
    }
}

impl From<BackupError> for Error {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::NoStore(_) => Self::Unreachable(error.to_string()),
            BackupError::Taken(_) => Self::Refused(error.to_string()),
            BackupError::UnderWay(_) | BackupError::Write(_) | BackupError::Read(_) => Self::Failed(error.into()),
        }
    }
}
