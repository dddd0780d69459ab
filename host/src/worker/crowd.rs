//! How many events wait in the store, as far as this host knows, and whether handlers may add to them.
//!
//! What handlers publish is not refused where clients are: the store is to be worked off when it is full. Past twice that,
//! though, an attempt that publishes is tried again later, or a plugin that publishes more than it handles would fill the
//! store. The number is looked at every second or so, and may be exceeded by what is published in that time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::{Class, Failure, Outcome};

/// How many times as many events may wait before handlers are refused as before clients are.
const TIMES_MAX_WAITING: u64 = 2;

/// What this host knows of how many events wait.
#[derive(Debug)]
pub(super) struct Crowd {
    most: u64,
    waiting: AtomicU64,
}

impl Crowd {
    /// Nothing known yet. Clients are refused when `max_waiting` events wait.
    pub(super) fn new(max_waiting: u64) -> Self {
        Self { most: max_waiting.saturating_mul(TIMES_MAX_WAITING), waiting: AtomicU64::new(0) }
    }

    /// So many wait now.
    pub(super) fn note(&self, waiting: u64) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// What becomes of an attempt: one that publishes has to wait while too many events do.
    pub(super) fn admit(&self, outcome: Outcome) -> Outcome {
        let waiting = self.waiting.load(Ordering::Relaxed);
        match outcome {
            Outcome::Ok(success) if waiting >= self.most && !success.published.is_empty() => {
                let message = format!(
                    "{waiting} events wait, and handlers may publish while fewer than {} do ({TIMES_MAX_WAITING} times \
                     broker.max_waiting)",
                    self.most
                );
                Outcome::Failed(Failure::new(Class::Retry, message))
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Published, Success, Timestamp};

    #[test]
    fn who_publishes_waits_while_twice_as_many_wait_as_clients_may_add_to() {
        let crowd = Crowd::new(10);
        let event = Event::new("a".parse().unwrap(), "/s", Timestamp::from_unix_ms(0));
        let publishing = Success { published: vec![Published { event, delay_ms: 0 }], ..Success::default() };
        let (publishing, quiet) = (Outcome::Ok(publishing), Outcome::Ok(Success::default()));
        for (waiting, may_publish) in [(0, true), (19, true), (20, false), (500, false), (5, true)] {
            crowd.note(waiting);
            assert_eq!(crowd.admit(quiet.clone()), quiet);
            match crowd.admit(publishing.clone()) {
                Outcome::Failed(failure) => {
                    assert!(!may_publish && failure.class == Class::Retry, "{waiting}: {failure:?}");
                    assert!(failure.message.contains("broker.max_waiting"), "{}", failure.message);
                }
                outcome => assert!(may_publish && outcome == publishing, "{waiting}"),
            }
        }
    }
}
