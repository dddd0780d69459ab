//! How many deliveries to claim before there is a slot for them: pure arithmetic.
//!
//! A claim costs a round trip, and a handler that takes less would wait for it again and again. But a delivery that waits
//! in this host cannot run on an idle host, becomes a suspect if this host dies, and takes memory. So a claim reads ahead
//! only what the slots will begin within a few milliseconds, and only a few MiB. The estimates are the recent durations of
//! the lane's handlers and the recent sizes of its events.

use std::collections::HashMap;
use std::time::Duration;

use crate::broker::Lane;

/// How long a delivery that was claimed ahead should wait for its slot.
const TARGET_WAIT: Duration = Duration::from_millis(25);
/// How many deliveries of one lane may be claimed ahead. It is several times the size of a claim or a settle. So slots stay
/// busy while a claim waits behind settles in the store.
const MAX_AHEAD: usize = 1_024;
/// How many bytes of payload of one lane may be claimed ahead.
const MAX_AHEAD_BYTES: usize = 16 * 1_024 * 1_024;
/// The weight of the newest value in a moving average.
const WEIGHT: f64 = 0.2;

/// How long the handlers of each lane take, and how large its events are.
#[derive(Debug, Default)]
pub(super) struct HandlerPace {
    lanes: HashMap<Lane, LanePace>,
}

/// Moving averages.
#[derive(Debug, Default)]
struct LanePace {
    duration_ms: Option<f64>,
    size_bytes: f64,
}

impl HandlerPace {
    /// Notes how long a handler of this lane took.
    pub(super) fn note_duration(&mut self, lane: &Lane, duration: Duration) {
        let duration_ms = duration.as_secs_f64() * 1_000.0;
        let average_ms = self.lane_pace(lane).duration_ms.get_or_insert(duration_ms);
        *average_ms += (duration_ms - *average_ms) * WEIGHT;
    }

    /// Notes the payload size of an event of this lane.
    pub(super) fn note_size(&mut self, lane: &Lane, size_bytes: usize) {
        let average_bytes = &mut self.lane_pace(lane).size_bytes;
        // A larger event counts in full at once, because more of them may follow.
        *average_bytes = (*average_bytes + (size_bytes as f64 - *average_bytes) * WEIGHT).max(size_bytes as f64);
    }

    /// How many deliveries of this lane may wait for its `slots`, if their payloads may take `room_bytes`. Zero until a
    /// handler of the lane has ended.
    pub(super) fn read_ahead(&self, lane: &Lane, slots: usize, room_bytes: usize) -> usize {
        let Some(LanePace { duration_ms: Some(duration_ms), size_bytes }) = self.lanes.get(lane) else { return 0 };
        let in_time = slots as f64 * TARGET_WAIT.as_secs_f64() * 1_000.0 / duration_ms.max(0.001);
        let in_room = room_bytes.min(MAX_AHEAD_BYTES) as f64 / size_bytes.max(1.0);
        // The cast saturates, and both values are positive.
        (in_time.min(in_room) as usize).min(MAX_AHEAD)
    }

    fn lane_pace(&mut self, lane: &Lane) -> &mut LanePace {
        self.lanes.entry(lane.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lanes_with_quick_handlers_are_claimed_ahead() {
        let lane: Lane = "a".parse().unwrap();
        let mut pace = HandlerPace::default();
        assert_eq!(pace.read_ahead(&lane, 4, usize::MAX), 0, "nothing is known yet");
        pace.note_duration(&lane, Duration::from_micros(50));
        assert_eq!(pace.read_ahead(&lane, 4, usize::MAX), MAX_AHEAD);
        for _ in 0..100 {
            pace.note_duration(&lane, Duration::from_millis(5));
        }
        assert_eq!(pace.read_ahead(&lane, 4, usize::MAX), 20);
        pace.note_duration(&lane, Duration::from_secs(5));
        assert_eq!(pace.read_ahead(&lane, 4, usize::MAX), 0, "one slow handler ends it at once");
    }

    #[test]
    fn large_events_are_claimed_ahead_in_small_numbers() {
        let lane: Lane = "a".parse().unwrap();
        let mut pace = HandlerPace::default();
        pace.note_duration(&lane, Duration::from_micros(50));
        pace.note_size(&lane, 200);
        assert_eq!(pace.read_ahead(&lane, 4, usize::MAX), MAX_AHEAD);
        pace.note_size(&lane, 256 * 1_024);
        assert_eq!(pace.read_ahead(&lane, 4, usize::MAX), 64, "a large event counts at once");
        assert_eq!(pace.read_ahead(&lane, 4, 1_024 * 1_024), 4, "there is no room for more");
        for _ in 0..100 {
            pace.note_size(&lane, 200);
        }
        assert_eq!(pace.read_ahead(&lane, 4, usize::MAX), MAX_AHEAD);
    }
}
