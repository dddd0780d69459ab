//! Lanes from which this host takes nothing for a moment, since it found there what is not for it: pure arithmetic.
//!
//! Two hosts may serve one lane and not the same types in it. What one cannot handle goes back to the lane for the other.
//! Without a pause it would take it out again at once, as often as it can.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::Lane;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);
/// The longest: what this host can handle itself waits as well.
const LONGEST: Duration = Duration::from_secs(1);

/// The lanes with a pause.
#[derive(Debug, Default)]
pub(super) struct StrayLanes {
    lanes: HashMap<Lane, StrayPause>,
}

#[derive(Debug)]
struct StrayPause {
    until: Instant,
    lasts: Duration,
}

impl StrayLanes {
    /// Something in this lane was not for this host. Pauses double while that happens again soon after each.
    pub(super) fn found(&mut self, lane: &Lane, now: Instant) {
        self.lanes.retain(|_, pause| now < pause.until + LONGEST);
        match self.lanes.get_mut(lane) {
            // One of those that were taken with it.
            Some(pause) if now < pause.until => {}
            Some(pause) => {
                pause.lasts = (pause.lasts * 2).min(LONGEST);
                pause.until = now + pause.lasts;
            }
            None => {
                self.lanes.insert(lane.clone(), StrayPause { until: now + FIRST, lasts: FIRST });
            }
        }
    }

    /// Whether nothing is to be taken from this lane now.
    pub(super) fn is_paused(&self, lane: &Lane, now: Instant) -> bool {
        !self.lanes.is_empty() && self.lanes.get(lane).is_some_and(|pause| now < pause.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_while_strays_are_found_and_begin_anew_after_a_while_without() {
        let (mut strays, mut now, lane) = (StrayLanes::default(), Instant::now(), Lane::unrouted());
        let other: Lane = "a".parse().unwrap();
        let mut lasted = Vec::new();
        for _ in 0..6 {
            assert!(!strays.is_paused(&lane, now));
            strays.found(&lane, now);
            strays.found(&lane, now);
            let begun = now;
            while strays.is_paused(&lane, now) {
                now += Duration::from_millis(10);
            }
            lasted.push((now - begun).as_millis());
        }
        assert_eq!(lasted, [100, 200, 400, 800, 1_000, 1_000]);
        assert!(!strays.is_paused(&other, now));
        now += LONGEST;
        strays.found(&lane, now);
        assert!(strays.is_paused(&lane, now) && !strays.is_paused(&lane, now + FIRST));
        strays.found(&other, now + LONGEST * 3);
        assert_eq!(strays.lanes.len(), 1, "what is over is forgotten");
    }
}
