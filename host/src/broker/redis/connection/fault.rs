//! What an error of Redis means.
//!
//! [`classify`] is the table of error replies. It decides three things: why the call failed, whether it may have taken
//! effect, and whether the connection is kept.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::broker::Error;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::broker::redis) enum FailureCause {
    /// No connection could be made.
    Unreachable,
    /// The connection ended or timed out while the call was under way.
    Interrupted,
    /// The server refuses commands for now: it loads data, runs a script, lacks a master or has too many clients.
    Busy,
    /// The server restarted, and one of its replicas may have taken over.
    Quarantined,
    /// The server has become a replica.
    Demoted,
    /// The server cannot write to its disk and refuses every change.
    CannotPersist,
    /// The server has reached its memory limit.
    NoRoom,
    /// Fewer replicas are connected than `min-replicas-to-write` demands.
    NoReplicas,
    /// The script is not cached: the caller sends its text.
    NoScript,
    /// The consumer group or its stream is gone.
    NoGroup,
    /// A key holds another type, or a command was not understood. An operator has to act.
    Misplaced,
    /// The server refused the credentials or the command.
    Denied,
}

/// What happens to the connection after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker::redis) enum ConnectionFate {
    /// It stays in use.
    Keep,
    /// A new one is made. The host name is resolved again.
    Rebuild,
    /// A new one is made after a long pause.
    RebuildSlowly,
}

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker::redis) struct FailureReaction {
    pub(in crate::broker::redis) cause: FailureCause,
    /// True if the call certainly changed nothing.
    pub(in crate::broker::redis) unchanged: bool,
    pub(in crate::broker::redis) connection: ConnectionFate,
}

/// A call that failed.
#[derive(Clone, Debug)]
pub(in crate::broker::redis) struct CallFailure {
    pub(in crate::broker::redis) reaction: FailureReaction,
    /// What the server or the connection said.
    pub(in crate::broker::redis) message: String,
}

/// Classifies the error of a call. Use [`classify_connect`] for an error of connecting.
pub(in crate::broker::redis) fn classify(error: &RedisError) -> FailureReaction {
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
        // So Redis says that a script met a missing right.
        (ErrorKind::Server(ServerErrorKind::ResponseError), _)
            if detail.starts_with("The user executing the script") =>
        {
            (FailureCause::Denied, false, RebuildSlowly)
        }
        _ => (FailureCause::Misplaced, false, Keep),
    };
    FailureReaction { cause, unchanged, connection }
}

/// Classifies an error of connecting: nothing was changed, and there is no connection to keep.
pub(in crate::broker::redis) fn classify_connect(error: &RedisError) -> FailureReaction {
    let reaction = classify(error);
    match reaction.cause {
        FailureCause::Denied => reaction,
        FailureCause::Busy => FailureReaction { connection: ConnectionFate::Rebuild, ..reaction },
        _ => FailureReaction { cause: FailureCause::Unreachable, unchanged: true, connection: ConnectionFate::Rebuild },
    }
}

impl CallFailure {
    /// A call that was never sent.
    pub(in crate::broker::redis) fn unreachable(message: impl Into<String>) -> Self {
        let reaction =
            FailureReaction { cause: FailureCause::Unreachable, unchanged: true, connection: ConnectionFate::Rebuild };
        Self { reaction, message: message.into() }
    }

    /// The server answers, but is not ready yet.
    pub(in crate::broker::redis) fn busy(message: impl Into<String>) -> Self {
        let reaction = FailureReaction { cause: FailureCause::Busy, unchanged: true, connection: ConnectionFate::Keep };
        Self { reaction, message: message.into() }
    }

    /// The server may be used later, unless another one has taken over.
    pub(in crate::broker::redis) fn quarantined(message: impl Into<String>) -> Self {
        let reaction =
            FailureReaction { cause: FailureCause::Quarantined, unchanged: true, connection: ConnectionFate::Keep };
        Self { reaction, message: message.into() }
    }

    /// A call that was sent and not answered in time.
    pub(in crate::broker::redis) fn interrupted(message: impl Into<String>) -> Self {
        let reaction =
            FailureReaction { cause: FailureCause::Interrupted, unchanged: false, connection: ConnectionFate::Rebuild };
        Self { reaction, message: message.into() }
    }

    /// A reply of an unexpected form.
    pub(in crate::broker::redis) fn not_understood(message: impl Into<String>) -> Self {
        let reaction =
            FailureReaction { cause: FailureCause::Misplaced, unchanged: false, connection: ConnectionFate::Keep };
        Self { reaction, message: message.into() }
    }

    /// True if the call may have taken effect, so that repeating it can tell.
    pub(in crate::broker::redis) fn is_ambiguous(&self) -> bool {
        !self.reaction.unchanged && self.reaction.cause == FailureCause::Interrupted
    }

    /// True if a call for several items may succeed for some of them when each is sent alone.
    pub(in crate::broker::redis) fn may_concern_one_item(&self) -> bool {
        self.reaction.cause == FailureCause::Misplaced
    }
}

impl From<CallFailure> for Error {
    fn from(failure: CallFailure) -> Self {
        match failure.reaction.cause {
            FailureCause::NoRoom => Self::NoRoom(failure.message),
            FailureCause::Misplaced => Self::Misconfigured(failure.message),
            FailureCause::Denied => {
                Self::Misconfigured(format!("Redis denies access to this host: {}", failure.message))
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
            ("ERR The user executing the script can't run this command or subcommand", Denied, false, RebuildSlowly),
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
