//! Lanes from which this host claims nothing for a moment: pure arithmetic.
//!
//! Two hosts may serve one lane but different types in it. A host returns an event that it cannot handle to the lane.
//! Without a pause it would claim the same event again at once, over and over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::Lane;

/// The length of the first pause.
const FIRST: Duration = Duration::from_millis(100);
/// The length of the longest pause. Events that this host can handle wait for it too.
const LONGEST: Duration = Duration::from_secs(1);

/// The paused lanes.
#[derive(Debug, Default)]
pub(super) struct LanePauses {
    lanes: HashMap<Lane, LanePause>,
}

#[derive(Debug)]
struct LanePause {
    until: Instant,
    length: Duration,
}

impl LanePauses {
    /// Pauses a lane. The pause doubles each time this happens again soon after the last pause.
    pub(super) fn pause(&mut self, lane: &Lane, now: Instant) {
        self.lanes.retain(|_, pause| now < pause.until + LONGEST);
        match self.lanes.get_mut(lane) {
            // The same claim brought several such deliveries.
            Some(pause) if now < pause.until => {}
            Some(pause) => {
                pause.length = (pause.length * 2).min(LONGEST);
                pause.until = now + pause.length;
            }
            None => {
                self.lanes.insert(lane.clone(), LanePause { until: now + FIRST, length: FIRST });
            }
        }
    }

    /// Whether this host must not claim from this lane now.
    pub(super) fn is_paused(&self, lane: &Lane, now: Instant) -> bool {
        !self.lanes.is_empty() && self.lanes.get(lane).is_some_and(|pause| now < pause.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_while_they_repeat_and_start_again_after_a_while() {
        let (mut pauses, mut now, lane) = (LanePauses::default(), Instant::now(), Lane::unrouted());
        let other: Lane = "a".parse().unwrap();
        let mut lengths = Vec::new();
        for _ in 0..6 {
            assert!(!pauses.is_paused(&lane, now));
            pauses.pause(&lane, now);
            pauses.pause(&lane, now);
            let begun = now;
            while pauses.is_paused(&lane, now) {
                now += Duration::from_millis(10);
            }
            lengths.push((now - begun).as_millis());
        }
        assert_eq!(lengths, [100, 200, 400, 800, 1_000, 1_000]);
        assert!(!pauses.is_paused(&other, now));
        now += LONGEST;
        pauses.pause(&lane, now);
        assert!(pauses.is_paused(&lane, now) && !pauses.is_paused(&lane, now + FIRST));
        pauses.pause(&other, now + LONGEST * 3);
        assert_eq!(pauses.lanes.len(), 1, "an old pause is forgotten");
    }
}
