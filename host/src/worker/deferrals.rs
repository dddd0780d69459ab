//! Notices plugins whose every attempt is deferred: pure.
//!
//! A plugin that publishes more than it handles stops at the limits of [`super::backlog`]. If all its waiting events
//! publish, none of them can end until a person acts, so a person must learn of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::Lane;

/// How long all attempts of a lane must have been deferred.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// The time between two warnings about one lane.
const WARN_INTERVAL: Duration = Duration::from_secs(600);
/// A lane of which no attempt ran for this long is forgotten. A deferred event is due again after a minute at most.
const FORGET_AFTER: Duration = Duration::from_secs(150);

/// The lanes whose latest attempts were all deferred.
#[derive(Debug, Default)]
pub(super) struct DeferralWatch {
    lanes: HashMap<Lane, DeferredLane>,
}

#[derive(Debug)]
struct DeferredLane {
    since: Instant,
    last: Instant,
    attempts: u64,
    obstacle: String,
    warned: Option<Instant>,
}

/// A lane of which every attempt has been deferred for a while.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StuckLane {
    pub(super) lane: Lane,
    pub(super) seconds: u64,
    pub(super) attempts: u64,
    /// Why the latest attempt was deferred.
    pub(super) obstacle: String,
}

impl DeferralWatch {
    /// Notes how an attempt of a lane ended: with the obstacle that deferred it, or otherwise.
    pub(super) fn note_attempt(&mut self, lane: &Lane, obstacle: Option<&str>, now: Instant) {
        let Some(obstacle) = obstacle else {
            self.lanes.remove(lane);
            return;
        };
        let fresh = || DeferredLane { since: now, last: now, attempts: 0, obstacle: String::new(), warned: None };
        let deferred = self.lanes.entry(lane.clone()).or_insert_with(fresh);
        deferred.last = now;
        deferred.attempts += 1;
        obstacle.clone_into(&mut deferred.obstacle);
    }

    /// The stuck lanes that a warning is due for. Each is returned again after [`WARN_INTERVAL`].
    pub(super) fn take_stuck(&mut self, now: Instant) -> Vec<StuckLane> {
        self.lanes.retain(|_, deferred| now.saturating_duration_since(deferred.last) < FORGET_AFTER);
        let mut stuck = Vec::new();
        for (lane, deferred) in &mut self.lanes {
            let is_quiet = deferred.warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN_INTERVAL);
            let length = now.saturating_duration_since(deferred.since);
            if is_quiet && length >= STUCK_AFTER {
                deferred.warned = Some(now);
                let (attempts, obstacle) = (deferred.attempts, deferred.obstacle.clone());
                stuck.push(StuckLane { lane: lane.clone(), seconds: length.as_secs(), attempts, obstacle });
            }
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_lane_is_stuck_once_all_its_attempts_were_deferred_for_a_while() {
        let (mut watch, start, lane) = (DeferralWatch::default(), Instant::now(), "a".parse::<Lane>().unwrap());
        for second in 0..60 {
            watch.note_attempt(&lane, Some(&format!("full {second}")), start + seconds(second));
            assert_eq!(watch.take_stuck(start + seconds(second)), []);
        }
        let stuck = StuckLane { lane: lane.clone(), seconds: 60, attempts: 60, obstacle: "full 59".into() };
        assert_eq!(watch.take_stuck(start + seconds(60)), [stuck]);
        assert_eq!(watch.take_stuck(start + seconds(61)), [], "it was just said");
        for second in (60..=660).step_by(60) {
            watch.note_attempt(&lane, Some("full"), start + seconds(second));
        }
        assert_eq!(watch.take_stuck(start + seconds(660)).len(), 1, "it is said again");
    }

    #[test]
    fn a_lane_is_not_stuck_if_an_attempt_gets_through_or_none_runs() {
        let (mut watch, start) = (DeferralWatch::default(), Instant::now());
        let [moving, silent] = ["a", "b"].map(|name| name.parse::<Lane>().unwrap());
        for second in 0..120 {
            let obstacle = (second % 50 != 0).then_some("full");
            watch.note_attempt(&moving, obstacle, start + seconds(second));
            assert_eq!(watch.take_stuck(start + seconds(second)), []);
        }
        watch.note_attempt(&silent, Some("full"), start);
        assert_eq!(watch.take_stuck(start + FORGET_AFTER), []);
        assert_eq!(watch.lanes.len(), 1);
    }
}
