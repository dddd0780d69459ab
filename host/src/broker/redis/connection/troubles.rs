//! The store's health: its durability and its current troubles.
//!
//! Several troubles can exist at once, and each ends by itself. [`TroubleBoard::health`] shows the gravest one. A trouble
//! is logged when it begins and when it ends, so an outage of an hour costs two log lines. Nothing is logged before the
//! broker is open: until then, the caller that opens it reports the error.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fault::{CallFailure, FailureCause};
use crate::broker::{Durability, StoreHealth};

/// The least time between two warnings about the same thing.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The most problems that one message lists.
const MAX_NAMED: usize = 3;

/// The message of [`TroubleKind::Loss`].
pub(in crate::broker::redis) const LOSS: &str = "Redis lost data: it was flushed, restored from an older copy or failed over to one; the remaining events are handled";

/// The kinds of trouble, gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::broker::redis) enum TroubleKind {
    /// Redis cannot be reached.
    Unreachable,
    /// Redis refuses the credentials or a command.
    Denied,
    /// Redis lost data, and the broker has not begun a new epoch yet.
    Loss,
    /// Redis restarted, and one of its replicas may have taken over.
    Quarantined,
    /// Redis has become a replica, or another version runs.
    Unsupported,
    /// The connection is up, but Redis does not answer.
    Silent,
    /// Redis loads its data or runs a script.
    Busy,
    /// Redis refuses every write because too few replicas are connected.
    NoReplicas,
    /// Redis refuses every write because it cannot write to its disk.
    CannotPersist,
    /// The settings of Redis may lose accepted events (G1).
    Unsafe,
    /// The memory of Redis is full.
    NoRoom,
    /// A key holds another type than it should.
    Misplaced,
}

impl TroubleKind {
    /// The kinds that the probe of the health check can find and clear.
    const PROBED: [Self; 5] = [Self::Silent, Self::Busy, Self::NoReplicas, Self::CannotPersist, Self::NoRoom];

    /// The trouble that a failure of this cause shows.
    fn of(cause: FailureCause) -> Option<Self> {
        Some(match cause {
            FailureCause::Unreachable => Self::Unreachable,
            FailureCause::Denied => Self::Denied,
            FailureCause::Busy => Self::Busy,
            FailureCause::NoReplicas => Self::NoReplicas,
            FailureCause::CannotPersist => Self::CannotPersist,
            FailureCause::NoRoom => Self::NoRoom,
            FailureCause::Misplaced => Self::Misplaced,
            FailureCause::Quarantined => Self::Quarantined,
            FailureCause::Demoted => Self::Unsupported,
            FailureCause::Interrupted | FailureCause::NoScript | FailureCause::NoGroup => return None,
        })
    }

    /// True if accepted events are handled in spite of it.
    fn allows_handling(self) -> bool {
        matches!(self, Self::Loss | Self::Unsafe | Self::NoRoom)
    }
}

/// The server's message, with advice for the operator where there is any.
pub(in crate::broker::redis) fn describe_failure(failure: &CallFailure) -> String {
    let advice = match failure.reaction.cause {
        FailureCause::NoReplicas => {
            "Redis refuses every write because fewer replicas are connected than min-replicas-to-write demands: \
             reconnect replicas, or lower that setting"
        }
        FailureCause::CannotPersist => {
            "Redis refuses every write because it cannot write to its disk: free disk space, and read its log if the \
             trouble stays"
        }
        FailureCause::NoRoom => {
            "the memory of Redis is full, so no events are accepted: raise maxmemory, or wait until events have been \
             handled and trimmed"
        }
        FailureCause::Busy => "Redis is busy and refuses commands: wait until it has finished",
        _ => return failure.message.clone(),
    };
    format!("{advice} ({})", failure.message)
}

/// The durability and the current troubles of one store.
#[derive(Debug)]
pub(in crate::broker::redis) struct TroubleBoard {
    state: Mutex<TroubleState>,
}

#[derive(Debug)]
struct TroubleState {
    durability: Durability,
    warning: Option<String>,
    troubles: BTreeMap<TroubleKind, String>,
    is_logging: bool,
    warned_at: BTreeMap<&'static str, Instant>,
}

impl TroubleBoard {
    pub(in crate::broker::redis) fn new() -> Self {
        let state = TroubleState {
            durability: Durability::Unknown,
            warning: None,
            troubles: BTreeMap::new(),
            is_logging: false,
            warned_at: BTreeMap::new(),
        };
        Self { state: Mutex::new(state) }
    }

    /// Logs the current troubles, and from now on each that begins or ends.
    pub(in crate::broker::redis) fn start_logging(&self) {
        let (troubles, warning) = {
            let mut state = self.lock();
            state.is_logging = true;
            (state.troubles.clone(), state.warning.clone())
        };
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        for (trouble, message) in troubles {
            tracing::error!(trouble = ?trouble, "{message}");
        }
    }

    /// The health as the broker reports it.
    pub(in crate::broker::redis) fn health(&self) -> StoreHealth {
        let state = self.lock();
        StoreHealth {
            durability: state.durability,
            warning: state.warning.clone(),
            trouble: state.troubles.values().next().cloned(),
            accepting: state.troubles.is_empty(),
            handling: state.troubles.keys().all(|trouble| trouble.allows_handling()),
        }
    }

    pub(in crate::broker::redis) fn set_durability(&self, durability: Durability) {
        let before = std::mem::replace(&mut self.lock().durability, durability);
        if before != durability && before != Durability::Unknown {
            tracing::warn!(
                durability = durability.as_str(),
                "the durability of Redis changed from {} to {}",
                before.as_str(),
                durability.as_str()
            );
        }
    }

    /// Notes what a failover of this server may lose; `None` for nothing. Logs a warning that is new.
    pub(in crate::broker::redis) fn set_warning(&self, warning: Option<String>) {
        let is_new = {
            let mut state = self.lock();
            let is_new = warning.is_some() && state.warning.is_none() && state.is_logging;
            state.warning.clone_from(&warning);
            is_new
        };
        if let Some(warning) = warning.filter(|_| is_new) {
            tracing::warn!("{warning}");
        }
    }

    /// Notes that a trouble began, or that its message changed.
    pub(in crate::broker::redis) fn raise(&self, trouble: TroubleKind, message: impl Into<String>) {
        let message = message.into();
        let is_change = {
            let mut state = self.lock();
            state.troubles.insert(trouble, message.clone()).is_none() && state.is_logging
        };
        if is_change {
            tracing::error!(trouble = ?trouble, "{message}");
        }
    }

    /// Notes that a trouble ended. Does nothing if there was none.
    pub(in crate::broker::redis) fn clear(&self, trouble: TroubleKind) {
        let is_change = {
            let mut state = self.lock();
            state.troubles.remove(&trouble).is_some() && state.is_logging
        };
        if is_change {
            tracing::info!(trouble = ?trouble, "Redis works again");
        }
    }

    /// The message of a trouble; `None` if there is none of this kind.
    pub(in crate::broker::redis) fn message_of(&self, trouble: TroubleKind) -> Option<String> {
        self.lock().troubles.get(&trouble).cloned()
    }

    /// Raises the trouble that a failed call shows, if any.
    pub(in crate::broker::redis) fn note_failure(&self, failure: &CallFailure) {
        if let Some(trouble) = TroubleKind::of(failure.reaction.cause) {
            self.raise(trouble, describe_failure(failure));
        }
    }

    /// Notes the result of a probe: clears every probed trouble that it did not find.
    pub(in crate::broker::redis) fn note_probe(&self, found: Option<&CallFailure>) {
        let found = found.and_then(|failure| TroubleKind::of(failure.reaction.cause));
        for trouble in TroubleKind::PROBED.into_iter().filter(|trouble| Some(*trouble) != found) {
            self.clear(trouble);
        }
    }

    /// Logs a warning, at most once a minute for each `about`.
    pub(in crate::broker::redis) fn warn(&self, about: &'static str, message: impl FnOnce() -> String) {
        let now = Instant::now();
        let is_due = {
            let mut state = self.lock();
            let is_due = state.warned_at.get(about).is_none_or(|last| now.duration_since(*last) >= WARN_EVERY);
            if is_due {
                state.warned_at.insert(about, now);
            }
            is_due
        };
        if is_due {
            let message = message();
            tracing::warn!(about, "{message}");
        }
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, TroubleState> {
        self.state.lock()
    }
}

/// Joins several messages into one, which lists the first three; `None` if there are none.
pub(in crate::broker::redis) fn join_messages(mut messages: Vec<String>) -> Option<String> {
    let more = messages.len().saturating_sub(MAX_NAMED);
    messages.truncate(MAX_NAMED);
    let listed = messages.join("; ");
    match (listed.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(listed),
        (false, more) => Some(format!("{listed}; and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::classify;
    use super::*;

    #[test]
    fn the_gravest_trouble_is_shown_until_it_ends() {
        let troubles = TroubleBoard::new();
        assert!(troubles.health().ready());
        troubles.raise(TroubleKind::Unsafe, "the policy evicts");
        troubles.raise(TroubleKind::Unreachable, "no answer");
        assert_eq!(troubles.health().trouble.as_deref(), Some("no answer"));
        troubles.clear(TroubleKind::Unreachable);
        assert_eq!(troubles.health().trouble.as_deref(), Some("the policy evicts"));
        troubles.clear(TroubleKind::Unsafe);
        troubles.clear(TroubleKind::Unsafe);
        assert!(troubles.health().ready());
    }

    #[test]
    fn a_full_memory_allows_handling_and_missing_replicas_do_not() {
        let troubles = TroubleBoard::new();
        let health = |troubles: &TroubleBoard| (troubles.health().accepting, troubles.health().handling);
        assert_eq!(health(&troubles), (true, true));
        troubles.raise(TroubleKind::NoRoom, "full");
        assert_eq!(health(&troubles), (false, true));
        troubles.raise(TroubleKind::NoReplicas, "alone");
        assert_eq!(health(&troubles), (false, false));
    }

    #[test]
    fn a_probe_clears_the_troubles_that_it_does_not_find() {
        let troubles = TroubleBoard::new();
        let failure = |line: &str| {
            let error =
                redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap().extract_error().unwrap_err();
            CallFailure { reaction: classify(&error), message: line.to_owned() }
        };
        let (alone, full) = (failure("NOREPLICAS Not enough good replicas."), failure("OOM command not allowed"));
        troubles.note_failure(&alone);
        troubles.note_failure(&full);
        troubles.raise(TroubleKind::Unsafe, "the policy evicts");
        assert!(troubles.health().trouble.is_some_and(|words| words.contains("min-replicas-to-write")));
        troubles.note_probe(Some(&full));
        assert_eq!(troubles.message_of(TroubleKind::NoReplicas), None);
        assert!(troubles.message_of(TroubleKind::NoRoom).is_some_and(|words| words.contains("maxmemory")));
        troubles.note_probe(None);
        assert_eq!(troubles.health().trouble.as_deref(), Some("the policy evicts"));
    }

    #[test]
    fn a_joined_message_lists_the_first_three() {
        let joined = |n: usize| join_messages((0..n).map(|n| n.to_string()).collect());
        assert_eq!(joined(0), None);
        assert_eq!(joined(2).as_deref(), Some("0; 1"));
        assert_eq!(joined(5).as_deref(), Some("0; 1; 2; and 2 more"));
    }

    #[test]
    fn a_warning_is_logged_once_a_minute() {
        let troubles = TroubleBoard::new();
        let mut logged = 0;
        for _ in 0..3 {
            troubles.warn("group", || {
                logged += 1;
                String::new()
            });
        }
        assert_eq!(logged, 1);
    }
}
