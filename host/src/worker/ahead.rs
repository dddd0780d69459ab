//! How many deliveries may be claimed before there is a slot for them: pure arithmetic.
//!
//! A claim costs a round trip, and handlers that take less than one would wait for it again and again. What waits inside
//! the host, though, could not be taken by another host that is idle, is a suspect if this one dies, and takes memory. So
//! only so much is claimed ahead as the slots will have begun within a few milliseconds, and as fits into a few MiB, going
//! by how long the handlers of that lane have taken of late and how large its events were.

use std::collections::HashMap;
use std::time::Duration;

use crate::broker::Lane;

/// How long what is claimed ahead should wait for its slot.
const AHEAD: Duration = Duration::from_millis(25);
/// The most deliveries of one lane that are claimed ahead: several times as many as one claim or settle takes, so that
/// slots are not idle while a claim waits behind settles in the store.
const MAX_AHEAD: usize = 1_024;
/// The most bytes of payloads of one lane that are to be claimed ahead.
const MAX_AHEAD_BYTES: usize = 16 * 1_024 * 1_024;
/// How much of the average the last one makes.
const WEIGHT: f64 = 0.2;

/// How long the handlers of each lane take, and how large its events are.
#[derive(Debug, Default)]
pub(super) struct HandlerPace {
    lanes: HashMap<Lane, LanePace>,
}

/// Averages that go with the time.
#[derive(Debug, Default)]
struct LanePace {
    took_ms: Option<f64>,
    size_bytes: f64,
}

impl HandlerPace {
    /// A handler of this lane has taken so long.
    pub(super) fn took(&mut self, lane: &Lane, took: Duration) {
        let took_ms = took.as_secs_f64() * 1_000.0;
        let average_ms = self.of(lane).took_ms.get_or_insert(took_ms);
        *average_ms += (took_ms - *average_ms) * WEIGHT;
    }

    /// An event of this lane has come, with a payload of so many bytes.
    pub(super) fn came(&mut self, lane: &Lane, size_bytes: usize) {
        let average_bytes = &mut self.of(lane).size_bytes;
        // A large one counts at once.
        *average_bytes = (*average_bytes + (size_bytes as f64 - *average_bytes) * WEIGHT).max(size_bytes as f64);
    }

    /// How many deliveries of this lane may wait for its slots, where there is room for so many bytes; none as long as
    /// nothing is known of it.
    pub(super) fn ahead(&self, lane: &Lane, slots: usize, room_bytes: usize) -> usize {
        let Some(LanePace { took_ms: Some(took_ms), size_bytes }) = self.lanes.get(lane) else { return 0 };
        let in_time = slots as f64 * AHEAD.as_secs_f64() * 1_000.0 / took_ms.max(0.001);
        let in_room = room_bytes.min(MAX_AHEAD_BYTES) as f64 / size_bytes.max(1.0);
        // Not negative, and cut to what is allowed.
        (in_time.min(in_room) as usize).min(MAX_AHEAD)
    }

    fn of(&mut self, lane: &Lane) -> &mut LanePace {
        self.lanes.entry(lane.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_handlers_are_claimed_for_ahead_and_slow_ones_are_not() {
        let lane: Lane = "a".parse().unwrap();
        let mut paces = HandlerPace::default();
        assert_eq!(paces.ahead(&lane, 4, usize::MAX), 0, "nothing is known yet");
        paces.took(&lane, Duration::from_micros(50));
        assert_eq!(paces.ahead(&lane, 4, usize::MAX), MAX_AHEAD);
        for _ in 0..100 {
            paces.took(&lane, Duration::from_millis(5));
        }
        assert_eq!(paces.ahead(&lane, 4, usize::MAX), 20);
        paces.took(&lane, Duration::from_secs(5));
        assert_eq!(paces.ahead(&lane, 4, usize::MAX), 0, "one that hangs ends it at once");
    }

    #[test]
    fn large_events_are_claimed_ahead_in_small_numbers() {
        let lane: Lane = "a".parse().unwrap();
        let mut paces = HandlerPace::default();
        paces.took(&lane, Duration::from_micros(50));
        paces.came(&lane, 200);
        assert_eq!(paces.ahead(&lane, 4, usize::MAX), MAX_AHEAD);
        paces.came(&lane, 256 * 1_024);
        assert_eq!(paces.ahead(&lane, 4, usize::MAX), 64, "a large one counts at once");
        assert_eq!(paces.ahead(&lane, 4, 1_024 * 1_024), 4, "there is room for no more");
        for _ in 0..100 {
            paces.came(&lane, 200);
        }
        assert_eq!(paces.ahead(&lane, 4, usize::MAX), MAX_AHEAD);
    }
}
