//! Why a store could not be opened, as an operator reads it.

use super::connection::{CallFailure, FailureCause, RedisLink, describe_failure, unreachable};

/// Why the broker could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisOpenError {
    /// No Redis answers, or it is not ready. Retry later.
    #[error("Redis at {address} cannot be reached: {reason}; is it running, and is the address right?")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the connection or the server said.
        reason: String,
    },
    /// Redis answers but refuses every write. Retry later.
    #[error("Redis at {address} cannot be used yet: {reason}")]
    Refusing {
        /// Host and port.
        address: String,
        /// The cause and the remedy.
        reason: String,
    },
    /// The settings may lose accepted events (G1). The message names the command that repairs them.
    #[error("{0}")]
    Unsafe(String),
    /// The server is too old, a replica, or part of a cluster.
    #[error("{0}")]
    Unsupported(String),
    /// The URL does not name a single Redis.
    #[error("the broker URL {url:?} cannot be used: {reason}")]
    BadUrl {
        /// The URL without its password.
        url: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// Redis denies access, or a key of ours holds another type.
    #[error("{0}")]
    Misconfigured(String),
}

impl RedisOpenError {
    /// The error for the first call that failed.
    pub(super) fn from_failure(link: &RedisLink, failure: CallFailure) -> Self {
        let (address, message) = (link.address(), &failure.message);
        match failure.reaction.cause {
            FailureCause::Unreachable if message.contains("DB index is out of range") => Self::Misconfigured(format!(
                "Redis at {address} has no database with the number at the end of the URL: {message}"
            )),
            FailureCause::Denied | FailureCause::Misplaced | FailureCause::NoRoom => {
                Self::Misconfigured(failure.message)
            }
            FailureCause::Unreachable if message.to_ascii_lowercase().contains("certificate") => {
                Self::Misconfigured(format!(
                    "{message}; the CA that signed the certificate of Redis is named in broker.tls.ca, and that of this host in \
                 broker.tls.cert and broker.tls.key"
                ))
            }
            FailureCause::Demoted => Self::Unsupported(failure.message),
            FailureCause::NoReplicas | FailureCause::CannotPersist | FailureCause::Busy | FailureCause::Quarantined => {
                Self::Refusing { address: address.to_owned(), reason: describe_failure(&failure) }
            }
            _ => {
                let reason = message.strip_prefix(&unreachable(address)).unwrap_or(message);
                Self::Unreachable { reason: reason.to_owned(), address: address.to_owned() }
            }
        }
    }
}
