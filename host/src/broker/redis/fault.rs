//! What an error of Redis means, and what follows from it.
//!
//! [`classify`] is the table of error replies, and the only place where they are told apart. It decides three things:
//! why the call failed, whether it may have taken effect all the same, and whether the connection is to be kept.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::broker::Error;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FailureCause {
    /// There is no connection, and none could be made.
    Unreachable,
    /// The connection ended or timed out while the call was under way.
    Interrupted,
    /// The server is busy with itself: loading, running a script, without a master, out of clients.
    Busy,
    /// The server is a replica now; writes go elsewhere.
    Demoted,
    /// The server cannot write to its disk and refuses every change.
    CannotPersist,
    /// The server's memory limit is reached.
    NoRoom,
    /// Too few replicas follow.
    NoReplicas,
    /// The script is not cached; it is to be sent whole.
    NoScript,
    /// The consumer group or its stream is gone.
    NoGroup,
    /// A key holds what it should not, or a command was not understood. A person has to act.
    Misplaced,
    /// The server does not let us in, or not do this.
    Denied,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionFate {
    /// It can be used on.
    Keep,
    /// A new one is made, to whatever the name resolves to then.
    Rebuild,
    /// A new one is made, but not soon.
    RebuildSlowly,
}

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailureReaction {
    pub(super) cause: FailureCause,
    /// Whether it is certain that nothing was changed.
    pub(super) unchanged: bool,
    pub(super) connection: ConnectionFate,
}

/// A call that failed.
#[derive(Clone, Debug)]
pub(super) struct CallFailure {
    pub(super) reaction: FailureReaction,
    /// What the server or the connection said.
    pub(super) message: String,
}

/// What an error of a call means. Errors of making a connection are [`classify_connect`].
pub(super) fn classify(error: &RedisError) -> FailureReaction {
    use ConnectionFate::{Keep, Rebuild, RebuildSlowly};
    let detail = error.detail().unwrap_or_default();
    let (cause, unchanged, connection) = match (error.kind(), error.code().unwrap_or_default()) {
        (ErrorKind::Io | ErrorKind::Parse, _) => (FailureCause::Interrupted, false, Rebuild),
        (ErrorKind::AuthenticationFailed, _) | (_, "NOAUTH" | "WRONGPASS" | "NOPERM") => {
            (FailureCause::Denied, true, RebuildSlowly)
        }
        (_, "LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN") => (FailureCause::Busy, true, Keep),
        (ErrorKind::Server(ServerErrorKind::ResponseError), _) if detail.contains("max number of clients") => {
            (FailureCause::Busy, true, Rebuild)
        }
        (_, "READONLY") => (FailureCause::Demoted, true, Rebuild),
        (_, "UNBLOCKED") if detail.contains("instance state changed") => (FailureCause::Demoted, true, Rebuild),
        (_, "UNBLOCKED" | "NOGROUP") => (FailureCause::NoGroup, true, Keep),
        (_, "MISCONF") => (FailureCause::CannotPersist, true, Keep),
        (_, "OOM") => (FailureCause::NoRoom, true, Keep),
        (_, "NOREPLICAS") => (FailureCause::NoReplicas, true, Keep),
        (_, "NOSCRIPT") => (FailureCause::NoScript, true, Keep),
        _ => (FailureCause::Misplaced, false, Keep),
    };
    FailureReaction { cause, unchanged, connection }
}

/// What an error of making a connection means: nothing was changed, and there is nothing to keep.
pub(super) fn classify_connect(error: &RedisError) -> FailureReaction {
    let reaction = classify(error);
    match reaction.cause {
        FailureCause::Denied => reaction,
        FailureCause::Busy => FailureReaction { connection: ConnectionFate::Rebuild, ..reaction },
        _ => FailureReaction { cause: FailureCause::Unreachable, unchanged: true, connection: ConnectionFate::Rebuild },
    }
}

impl CallFailure {
    /// A failure of which nothing is known but that nothing was changed.
    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        let reaction =
            FailureReaction { cause: FailureCause::Unreachable, unchanged: true, connection: ConnectionFate::Rebuild };
        Self { reaction, message: message.into() }
    }

    /// The server is there, but cannot be judged or worked with yet.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        let reaction = FailureReaction { cause: FailureCause::Busy, unchanged: true, connection: ConnectionFate::Keep };
        Self { reaction, message: message.into() }
    }

    /// A call that was sent and not answered in time.
    pub(super) fn interrupted(message: impl Into<String>) -> Self {
        let reaction =
            FailureReaction { cause: FailureCause::Interrupted, unchanged: false, connection: ConnectionFate::Rebuild };
        Self { reaction, message: message.into() }
    }

    /// An answer that is not of the form that was expected.
    pub(super) fn not_understood(message: impl Into<String>) -> Self {
        let reaction =
            FailureReaction { cause: FailureCause::Misplaced, unchanged: false, connection: ConnectionFate::Keep };
        Self { reaction, message: message.into() }
    }

    /// Whether the same call may be repeated to learn what became of it.
    pub(super) fn is_ambiguous(&self) -> bool {
        !self.reaction.unchanged && self.reaction.cause == FailureCause::Interrupted
    }
}

impl From<CallFailure> for Error {
    fn from(failure: CallFailure) -> Self {
        match failure.reaction.cause {
            FailureCause::NoRoom => Self::NoRoom(failure.message),
            FailureCause::Misplaced => Self::Misconfigured(failure.message),
            FailureCause::Denied => {
                Self::Misconfigured(format!("Redis does not let this host in: {}", failure.message))
            }
            _ => Self::Unavailable { reason: failure.message, outcome_known: failure.reaction.unchanged },
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::make_extension_error;

    use super::ConnectionFate::*;
    use super::FailureCause::*;
    use super::*;

    fn reply(line: &str) -> RedisError {
        let (code, detail) = line.split_once(' ').unwrap_or((line, ""));
        redis::parse_redis_value(format!("-{code} {detail}\r\n").as_bytes())
            .and_then(|value| value.extract_error())
            .expect_err("the line is an error reply")
    }

    #[test]
    fn every_error_reply_has_its_reaction() {
        for (line, cause, unchanged, connection) in [
            ("LOADING Redis is loading the dataset in memory", Busy, true, Keep),
            ("BUSY Redis is busy running a script.", Busy, true, Keep),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Busy, true, Keep),
            ("CLUSTERDOWN The cluster is down", Busy, true, Keep),
            ("MASTERDOWN Link with MASTER is down", Busy, true, Keep),
            ("ERR max number of clients reached", Busy, true, Rebuild),
            ("READONLY You can't write against a read only replica.", Demoted, true, Rebuild),
            ("UNBLOCKED force unblock from blocking operation, instance state changed", Demoted, true, Rebuild),
            ("UNBLOCKED the stream key no longer exists", NoGroup, true, Keep),
            ("NOGROUP No such key 'q' or consumer group 'es'", NoGroup, true, Keep),
            ("MISCONF Errors writing to the AOF file: No space left on device", CannotPersist, true, Keep),
            ("OOM command not allowed when used memory > 'maxmemory'.", NoRoom, true, Keep),
            ("NOREPLICAS Not enough good replicas to write.", NoReplicas, true, Keep),
            ("NOSCRIPT No matching script.", NoScript, true, Keep),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Misplaced, false, Keep),
            ("CROSSSLOT Keys in request don't hash to the same slot", Misplaced, false, Keep),
            ("ERR wrong number of arguments for 'xadd' command", Misplaced, false, Keep),
            ("NOAUTH Authentication required.", Denied, true, RebuildSlowly),
            ("WRONGPASS invalid username-password pair", Denied, true, RebuildSlowly),
            ("NOPERM this user has no permissions to run the 'xadd' command", Denied, true, RebuildSlowly),
        ] {
            assert_eq!(classify(&reply(line)), FailureReaction { cause, unchanged, connection }, "{line}");
        }
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_open() {
        let reset = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        let timeout = RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        for error in [reset, timeout] {
            assert_eq!(classify(&error), FailureReaction { cause: Interrupted, unchanged: false, connection: Rebuild });
            let connecting = classify_connect(&error);
            assert_eq!(connecting, FailureReaction { cause: Unreachable, unchanged: true, connection: Rebuild });
        }
    }

    #[test]
    fn causes_become_the_errors_of_the_trait() {
        let error = |error: &RedisError| Error::from(CallFailure { reaction: classify(error), message: "why".into() });
        assert_eq!(error(&reply("OOM full")), Error::NoRoom("why".into()));
        assert_eq!(error(&reply("LOADING x")), Error::refused("why"));
        assert_eq!(error(&reply("WRONGTYPE x")), Error::Misconfigured("why".into()));
        assert!(!error(&make_extension_error("NOPERM".into(), None)).is_transient());
        assert_eq!(Error::from(CallFailure::interrupted("why")), Error::unknown("why"));
    }
}
