//! What is known of the store's health: how durable it is, and what keeps it from being worked with.
//!
//! Several parts of the broker find several troubles at once, and each of them ends by itself; the gravest one is shown.
//! A trouble is logged when it begins and when it ends, never in between, so that a store that stays away for an hour
//! costs two lines. Nothing is logged before the broker is open, since whoever opens it says what is wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::fault::{CallFailure, FailureCause};
use crate::broker::{Durability, StoreHealth};
use parking_lot::Mutex;

/// How often a remark that would repeat itself is logged.
const REMARK_EVERY: Duration = Duration::from_secs(60);

/// The most things that are named in one message.
const MAX_NAMED: usize = 3;

/// What is said of [`Trouble::Loss`], whoever finds it first.
pub(super) const LOSS: &str =
    "Redis lost data: it was flushed, restored from an older copy or failed over to one; what is there is worked on";

/// The kinds of trouble, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TroubleKind {
    /// Redis cannot be reached.
    Unreachable,
    /// Redis does not let us in.
    Denied,
    /// Data was lost, and it is not known yet how to go on.
    Loss,
    /// Redis is not what it was at the start: a replica, an older version.
    Unsupported,
    /// Redis does not answer, though the connection is there.
    Silent,
    /// Redis loads its data, or does nothing but run a script.
    Busy,
    /// Too few replicas follow, so that Redis refuses every write.
    NoReplicas,
    /// Redis cannot write to its disk, and refuses every write.
    CannotPersist,
    /// The settings of Redis do not keep what was promised.
    Unsafe,
    /// The memory of Redis is full.
    NoRoom,
    /// A key holds something else than it should.
    Misplaced,
}

impl TroubleKind {
    /// Those of which [`Core::probe`](super::core::Core::probe) finds out that they are over.
    const PROBED: [Self; 5] = [Self::Silent, Self::Busy, Self::NoReplicas, Self::CannotPersist, Self::NoRoom];

    /// The trouble that a failure of this cause is a sign of.
    fn of(cause: FailureCause) -> Option<Self> {
        Some(match cause {
            FailureCause::Unreachable => Self::Unreachable,
            FailureCause::Denied => Self::Denied,
            FailureCause::Busy => Self::Busy,
            FailureCause::NoReplicas => Self::NoReplicas,
            FailureCause::CannotPersist => Self::CannotPersist,
            FailureCause::NoRoom => Self::NoRoom,
            FailureCause::Misplaced => Self::Misplaced,
            FailureCause::Demoted => Self::Unsupported,
            FailureCause::Interrupted | FailureCause::NoScript | FailureCause::NoGroup => return None,
        })
    }

    /// Whether what was accepted is handled all the same.
    fn leaves_handling(self) -> bool {
        matches!(self, Self::Loss | Self::Unsafe | Self::NoRoom)
    }
}

/// What is said of a failure: what the server said, and what to do about it where that can be told.
pub(super) fn explained(failure: &CallFailure) -> String {
    let (words, said) = match failure.reaction.cause {
        FailureCause::NoReplicas => (
            "Redis refuses every write, since fewer replicas follow it than its min-replicas-to-write asks for: bring \
             replicas back, or lower that setting",
            &failure.message,
        ),
        FailureCause::CannotPersist => (
            "Redis refuses every write, since it cannot write to its disk: free its disk, and look into its log if this \
             does not pass",
            &failure.message,
        ),
        FailureCause::NoRoom => (
            "the memory of Redis is full, and nothing is accepted: raise its maxmemory, or wait until events have been \
             worked off and forgotten",
            &failure.message,
        ),
        FailureCause::Busy => {
            ("Redis is busy with itself and refuses commands: wait until it is done", &failure.message)
        }
        _ => return failure.message.clone(),
    };
    format!("{words} ({said})")
}

/// The board.
#[derive(Debug)]
pub(super) struct TroubleBoard {
    state: Mutex<TroubleState>,
}

#[derive(Debug)]
struct TroubleState {
    durability: Durability,
    troubles: BTreeMap<TroubleKind, String>,
    is_logging: bool,
    remarked: BTreeMap<&'static str, Instant>,
}

impl TroubleBoard {
    pub(super) fn new() -> Self {
        let state = TroubleState {
            durability: Durability::Unknown,
            troubles: BTreeMap::new(),
            is_logging: false,
            remarked: BTreeMap::new(),
        };
        Self { state: Mutex::new(state) }
    }

    /// Logs the troubles that there are, and from now on each that begins or ends.
    pub(super) fn begin_log(&self) {
        let troubles = {
            let mut state = self.lock();
            state.is_logging = true;
            state.troubles.clone()
        };
        for (trouble, message) in troubles {
            tracing::error!(trouble = ?trouble, "{message}");
        }
    }

    /// What is shown.
    pub(super) fn health(&self) -> StoreHealth {
        let state = self.lock();
        StoreHealth {
            durability: state.durability,
            trouble: state.troubles.values().next().cloned(),
            accepting: state.troubles.is_empty(),
            handling: state.troubles.keys().all(|trouble| trouble.leaves_handling()),
        }
    }

    pub(super) fn set_durability(&self, durability: Durability) {
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

    /// A trouble began, or goes on with other words.
    pub(super) fn raise(&self, trouble: TroubleKind, message: impl Into<String>) {
        let message = message.into();
        let is_news = {
            let mut state = self.lock();
            state.troubles.insert(trouble, message.clone()).is_none() && state.is_logging
        };
        if is_news {
            tracing::error!(trouble = ?trouble, "{message}");
        }
    }

    /// A trouble ended, if there was one.
    pub(super) fn clear(&self, trouble: TroubleKind) {
        let is_news = {
            let mut state = self.lock();
            state.troubles.remove(&trouble).is_some() && state.is_logging
        };
        if is_news {
            tracing::info!(trouble = ?trouble, "Redis can be worked with again");
        }
    }

    /// What a trouble says, if there is one.
    pub(super) fn trouble(&self, trouble: TroubleKind) -> Option<String> {
        self.lock().troubles.get(&trouble).cloned()
    }

    /// A call failed: what it says about the store is put up.
    pub(super) fn note(&self, failure: &CallFailure) {
        if let Some(trouble) = TroubleKind::of(failure.reaction.cause) {
            self.raise(trouble, explained(failure));
        }
    }

    /// What keeps Redis from writing was looked for, and this is all that was found.
    pub(super) fn probed(&self, found: Option<&CallFailure>) {
        let found = found.and_then(|failure| TroubleKind::of(failure.reaction.cause));
        for trouble in TroubleKind::PROBED.into_iter().filter(|trouble| Some(*trouble) != found) {
            self.clear(trouble);
        }
    }

    /// Logs a remark unless the same was logged a minute ago. `about` says which remarks are the same.
    pub(super) fn remark(&self, about: &'static str, message: impl FnOnce() -> String) {
        let now = Instant::now();
        let is_due = {
            let mut state = self.lock();
            let is_due = state.remarked.get(about).is_none_or(|last| now.duration_since(*last) >= REMARK_EVERY);
            if is_due {
                state.remarked.insert(about, now);
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

/// Several things that are wrong, as one message; `None` if nothing is.
pub(super) fn told(mut wrong: Vec<String>) -> Option<String> {
    let more = wrong.len().saturating_sub(MAX_NAMED);
    wrong.truncate(MAX_NAMED);
    let named = wrong.join("; ");
    match (named.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(named),
        (false, more) => Some(format!("{named}; and so for {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::classify;
    use super::*;

    #[test]
    fn the_gravest_trouble_is_shown_until_it_ends() {
        let board = TroubleBoard::new();
        assert!(board.health().ready());
        board.raise(TroubleKind::Unsafe, "the policy evicts");
        board.raise(TroubleKind::Unreachable, "nobody answers");
        assert_eq!(board.health().trouble.as_deref(), Some("nobody answers"));
        board.clear(TroubleKind::Unreachable);
        assert_eq!(board.health().trouble.as_deref(), Some("the policy evicts"));
        board.clear(TroubleKind::Unsafe);
        board.clear(TroubleKind::Unsafe);
        assert!(board.health().ready());
    }

    #[test]
    fn a_full_memory_lets_the_work_go_on_and_want_of_replicas_does_not() {
        let board = TroubleBoard::new();
        let health = |board: &TroubleBoard| (board.health().accepting, board.health().handling);
        assert_eq!(health(&board), (true, true));
        board.raise(TroubleKind::NoRoom, "full");
        assert_eq!(health(&board), (false, true));
        board.raise(TroubleKind::NoReplicas, "alone");
        assert_eq!(health(&board), (false, false));
    }

    #[test]
    fn what_was_probed_for_and_not_found_is_over() {
        let board = TroubleBoard::new();
        let failure = |line: &str| {
            let error =
                redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap().extract_error().unwrap_err();
            CallFailure { reaction: classify(&error), message: line.to_owned() }
        };
        let (alone, full) = (failure("NOREPLICAS Not enough good replicas."), failure("OOM command not allowed"));
        board.note(&alone);
        board.note(&full);
        board.raise(TroubleKind::Unsafe, "the policy evicts");
        assert!(board.health().trouble.is_some_and(|words| words.contains("min-replicas-to-write")));
        board.probed(Some(&full));
        assert_eq!(board.trouble(TroubleKind::NoReplicas), None);
        assert!(board.trouble(TroubleKind::NoRoom).is_some_and(|words| words.contains("maxmemory")));
        board.probed(None);
        assert_eq!(board.health().trouble.as_deref(), Some("the policy evicts"));
    }

    #[test]
    fn a_few_of_many_are_named() {
        let told = |n: usize| told((0..n).map(|n| n.to_string()).collect());
        assert_eq!(told(0), None);
        assert_eq!(told(2).as_deref(), Some("0; 1"));
        assert_eq!(told(5).as_deref(), Some("0; 1; 2; and so for 2 more"));
    }

    #[test]
    fn a_remark_is_made_once_a_minute() {
        let board = TroubleBoard::new();
        let mut made = 0;
        for _ in 0..3 {
            board.remark("group", || {
                made += 1;
                String::new()
            });
        }
        assert_eq!(made, 1);
    }
}
