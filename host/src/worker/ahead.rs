//! How many deliveries may be claimed before there is a slot for them: pure arithmetic.
//!
//! A claim costs a round trip, and handlers that take less than one would wait for it again and again. What waits inside
//! the host, though, could not be taken by another host that is idle, and is a suspect if this one dies. So only so much
//! is claimed ahead as the slots will have begun within a few milliseconds, going by how long the handlers of that lane
//! have taken of late.

use std::collections::HashMap;
use std::time::Duration;

use crate::broker::Lane;

/// How long what is claimed ahead should wait for its slot.
const AHEAD: Duration = Duration::from_millis(25);
/// The most deliveries of one lane that are claimed ahead.
const MAX_AHEAD: usize = 256;
/// How much of the average the last handler makes.
const WEIGHT: f64 = 0.2;

/// How long the handlers of each lane take.
#[derive(Debug, Default)]
pub(super) struct Paces {
    average_ms: HashMap<Lane, f64>,
}

impl Paces {
    /// A handler of this lane has taken so long.
    pub(super) fn note(&mut self, lane: &Lane, took: Duration) {
        let took_ms = took.as_secs_f64() * 1_000.0;
        match self.average_ms.get_mut(lane) {
            Some(average_ms) => *average_ms += (took_ms - *average_ms) * WEIGHT,
            None => drop(self.average_ms.insert(lane.clone(), took_ms)),
        }
    }

    /// How many deliveries of this lane may wait for its slots; none as long as nothing is known of it.
    pub(super) fn ahead(&self, lane: &Lane, slots: usize) -> usize {
        let Some(average_ms) = self.average_ms.get(lane) else { return 0 };
        let within = slots as f64 * AHEAD.as_secs_f64() * 1_000.0 / average_ms.max(0.001);
        // Not negative, and cut to what is allowed.
        (within as usize).min(MAX_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_handlers_are_claimed_for_ahead_and_slow_ones_are_not() {
        let lane: Lane = "a".parse().unwrap();
        let mut paces = Paces::default();
        assert_eq!(paces.ahead(&lane, 4), 0, "nothing is known yet");
        paces.note(&lane, Duration::from_micros(100));
        assert_eq!(paces.ahead(&lane, 4), MAX_AHEAD);
        for _ in 0..50 {
            paces.note(&lane, Duration::from_millis(5));
        }
        assert_eq!(paces.ahead(&lane, 4), 20);
        paces.note(&lane, Duration::from_secs(5));
        assert_eq!(paces.ahead(&lane, 4), 0, "one that hangs ends it at once");
    }
}
