//! Notices plugins whose attempts are kept without their output, because the store holds much of them: pure.
//!
//! A person who looks for the log of an attempt should learn why it is missing, and what to do about it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::Lane;

/// The time between two warnings about one lane.
const WARN_INTERVAL: Duration = Duration::from_secs(600);

/// Where an attempt is kept whose output was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum KeptPlace {
    /// With an event that waits or that has failed.
    Lane,
    /// With a processed event.
    History,
}

/// The lanes of which attempts were kept without their output.
#[derive(Debug, Default)]
pub(super) struct ShortenedAttempts(HashMap<(Lane, KeptPlace), ShortenedLane>);

#[derive(Debug)]
struct ShortenedLane {
    /// The attempts since the last warning.
    attempts: u64,
    warned: Option<Instant>,
}

impl ShortenedAttempts {
    /// Notes an attempt of a lane that was kept without its output.
    pub(super) fn note(&mut self, lane: &Lane, place: KeptPlace) {
        let fresh = || ShortenedLane { attempts: 0, warned: None };
        self.0.entry((lane.clone(), place)).or_insert_with(fresh).attempts += 1;
    }

    /// The lanes that a warning is due for, each with its attempts since the last warning. Each is returned again after
    /// [`WARN_INTERVAL`] if there are more by then, and otherwise forgotten.
    pub(super) fn take_unwarned(&mut self, now: Instant) -> Vec<(Lane, KeptPlace, u64)> {
        let mut due = Vec::new();
        self.0.retain(|(lane, place), shortened| {
            if shortened.warned.is_some_and(|at| now.saturating_duration_since(at) < WARN_INTERVAL) {
                return true;
            }
            if shortened.attempts == 0 {
                return false;
            }
            due.push((lane.clone(), *place, std::mem::take(&mut shortened.attempts)));
            shortened.warned = Some(now);
            true
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_named_at_once_then_once_in_a_while_and_forgotten_when_it_is_quiet() {
        let (mut shortened, start) = (ShortenedAttempts::default(), Instant::now());
        let lane: Lane = "a".parse().unwrap();
        shortened.note(&lane, KeptPlace::Lane);
        assert_eq!(shortened.take_unwarned(start), [(lane.clone(), KeptPlace::Lane, 1)]);
        for _ in 0..3 {
            shortened.note(&lane, KeptPlace::Lane);
        }
        assert_eq!(shortened.take_unwarned(start + WARN_INTERVAL / 2), [], "it was just said");
        shortened.note(&lane, KeptPlace::History);
        assert_eq!(shortened.take_unwarned(start), [(lane.clone(), KeptPlace::History, 1)], "another place");
        assert_eq!(shortened.take_unwarned(start + WARN_INTERVAL), [(lane, KeptPlace::Lane, 3)]);
        assert_eq!(shortened.take_unwarned(start + 2 * WARN_INTERVAL), []);
        assert!(shortened.0.is_empty());
    }
}
