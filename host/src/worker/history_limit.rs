//! How much processed events may add to the history before the store has trimmed it (G8, G12): pure accounting.
//!
//! No settle is ever refused, and the store trims the history only after each look. On Redis it keeps the youngest events for
//! some seconds in any case. So a plugin with large results could fill the store of the others in that time. Instead its
//! lane begins no attempt until the history has shrunk. The limit of the history may be exceeded
//! - by an eighth of what one lane may hold, then the lanes wait that have more than an equal share of the history;
//! - by half of it, then others wait as well;
//! - by lanes with next to no history at any time: they never wait for the others.
//!
//! Large results count as soon as an attempt has ended, before they are settled. So a host exceeds these levels by what
//! attempts add that had begun already. Each of `n` hosts may use an `n`-th of the room that its last look has shown.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::broker::{Lane, QueueDepth, SettleRequest};
use crate::event::{AttemptDetail, EventData, EventRecord, Settlement};

/// Attempts are kept whole until the history of their lane grew by the limit of a lane divided by this since the last look.
const STEP_DIVISOR: u64 = 8;
/// Lanes with more than an equal share wait when the limit is exceeded by the limit of a lane divided by this.
const LARGE_DIVISOR: u64 = 8;
/// Others wait when it is exceeded by the limit of a lane divided by this.
const OTHERS_DIVISOR: u64 = 2;
/// A lane has next to no history up to an equal share divided by this.
const SMALL_DIVISOR: u64 = 8;
/// Events up to this size count when they are settled, larger ones as soon as their attempt has ended.
const LARGE_BYTES: u64 = 4 * 1024;
/// A lane that waited this long begins a few attempts. It must not stand still where the store cannot trim.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The time between two warnings about one lane.
const WARN_INTERVAL: Duration = Duration::from_secs(600);

/// Limits what processed events add to the history.
#[derive(Debug, Default)]
pub(super) struct HistoryLimit {
    known: Mutex<KnownHistory>,
    /// Notified when so much was added that the history should be trimmed at once.
    pub(super) grew: Notify,
}

#[derive(Debug, Default)]
struct KnownHistory {
    /// The most bytes of the history and of a lane; `None` before the first look, and if the store has no limit.
    limits: Option<HistoryBytesLimits>,
    hosts: u64,
    lanes: HashMap<Lane, LaneHistory>,
    /// When a warning about a lane was due last.
    warned: HashMap<Lane, Instant>,
}

/// A lane that waits until the history has been trimmed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ThrottledLane {
    pub(super) lane: Lane,
    /// About how many bytes its history takes.
    pub(super) kept_bytes: u64,
    pub(super) history_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct HistoryBytesLimits {
    history_bytes: u64,
    lane_bytes: u64,
}

/// What is known of the history of one lane.
#[derive(Debug, Default, PartialEq)]
struct LaneHistory {
    /// What it held at the last look.
    seen_bytes: u64,
    /// What attempts add that are not settled yet.
    in_flight_bytes: u64,
    /// What this host added after the last look began.
    added_bytes: u64,
    /// The same of what was added before the look that runs now. The answer may or may not contain it.
    added_before_look_bytes: u64,
    /// What attempts left since the last look, without results.
    attempt_bytes: u64,
    /// Since when the lane waits.
    waits_since: Option<Instant>,
}

/// Counts what an attempt adds to the history until its settle has ended.
#[derive(Debug)]
pub(super) struct HistoryReservation {
    limit: Arc<HistoryLimit>,
    lane: Lane,
    size_bytes: u64,
}

impl HistoryLimit {
    /// Notes that a look at the store begins.
    pub(super) fn begin_look(&self) {
        for lane in self.known.lock().lanes.values_mut() {
            lane.added_before_look_bytes += std::mem::take(&mut lane.added_bytes);
        }
    }

    /// Replaces the figures with the answer to a look.
    pub(super) fn update(&self, depth: &QueueDepth) {
        let known = &mut *self.known.lock();
        known.hosts = depth.consumers.max(1);
        known.limits = depth
            .max_history_bytes
            .zip(depth.max_lane_bytes)
            .map(|(history_bytes, lane_bytes)| HistoryBytesLimits { history_bytes, lane_bytes });
        let seen: BTreeMap<Lane, u64> =
            depth.kept_bytes_by_lane.iter().filter_map(|(name, bytes)| Some((name.parse().ok()?, *bytes))).collect();
        for lane in seen.keys() {
            known.lanes.entry(lane.clone()).or_default();
        }
        known.lanes.retain(|name, lane| {
            lane.seen_bytes = seen.get(name).copied().unwrap_or(0);
            (lane.added_before_look_bytes, lane.attempt_bytes) = (0, 0);
            *lane != LaneHistory::default()
        });
    }

    /// Decides how much is kept of an attempt of `attempt_bytes` whose event was processed.
    pub(super) fn keep_attempt(&self, lane: &Lane, attempt_bytes: u64) -> AttemptDetail {
        let known = &mut *self.known.lock();
        let Some(step_bytes) = known.step_bytes() else { return AttemptDetail::Whole };
        let lane = known.lanes.entry(lane.clone()).or_default();
        let stored_bytes = lane.attempt_bytes.saturating_add(lane.own_bytes());
        let detail = AttemptDetail::for_room(stored_bytes, attempt_bytes, step_bytes, step_bytes);
        lane.attempt_bytes = lane.attempt_bytes.saturating_add(detail.kept_bytes(attempt_bytes));
        detail
    }

    /// Counts the record of a processed event if it is large. Keep the reservation until the settle has ended.
    pub(super) fn reserve(self: &Arc<Self>, lane: &Lane, record: &EventRecord) -> Option<HistoryReservation> {
        let size_bytes = data_bytes(record);
        if size_bytes <= LARGE_BYTES {
            return None;
        }
        self.known.lock().lanes.entry(lane.clone()).or_default().in_flight_bytes += size_bytes;
        Some(HistoryReservation { limit: self.clone(), lane: lane.clone(), size_bytes })
    }

    /// Notes settles that took effect. Large records are counted by their reservations.
    pub(super) fn note_settled<'a>(&self, settles: impl Iterator<Item = &'a SettleRequest>) {
        let known = &mut *self.known.lock();
        for settle in settles.filter(|settle| settle.settlement == Settlement::Processed) {
            let size_bytes = data_bytes(&settle.record);
            if size_bytes > LARGE_BYTES {
                continue;
            }
            match known.lanes.get_mut(&settle.receipt.lane) {
                Some(lane) => lane.added_bytes += size_bytes,
                None => known.lanes.entry(settle.receipt.lane.clone()).or_default().added_bytes = size_bytes,
            }
        }
        let added_bytes: u64 = known.lanes.values().map(|lane| lane.own_bytes() + lane.attempt_bytes).sum();
        if known.step_bytes().is_some_and(|step_bytes| added_bytes > step_bytes) {
            self.grew.notify_one();
        }
    }

    /// Whether a lane must begin no attempt now.
    pub(super) fn must_wait(&self, lane: &Lane) -> bool {
        let known = self.known.lock();
        known.lanes.get(lane).is_some_and(|history| known.sums().is_some_and(|sums| sums.must_wait(history)))
    }

    /// The lanes that must begin no attempt before the next look. One that waited for [`LONGEST_WAIT`] is left out once.
    pub(super) fn throttled_lanes(&self, now: Instant) -> HashSet<Lane> {
        let known = &mut *self.known.lock();
        let sums = known.sums();
        let mut waiting = HashSet::new();
        for (name, lane) in &mut known.lanes {
            let must_wait = sums.as_ref().is_some_and(|sums| sums.must_wait(lane));
            let since = must_wait.then(|| lane.waits_since.unwrap_or(now));
            lane.waits_since = since.filter(|since| now.saturating_duration_since(*since) < LONGEST_WAIT);
            if lane.waits_since.is_some() {
                waiting.insert(name.clone());
            }
        }
        waiting
    }

    /// The throttled lanes that a warning is due for. Each is returned again after [`WARN_INTERVAL`].
    pub(super) fn take_unwarned(&self, now: Instant) -> Vec<ThrottledLane> {
        let known = &mut *self.known.lock();
        known.warned.retain(|_, at| now.saturating_duration_since(*at) < WARN_INTERVAL);
        let Some(HistoryBytesLimits { history_bytes, .. }) = known.limits else { return Vec::new() };
        let waiting = known.lanes.iter().filter(|(_, history)| history.waits_since.is_some());
        let due = waiting.filter(|(lane, _)| !known.warned.contains_key(lane)).map(|(lane, history)| {
            let kept_bytes = history.seen_bytes.saturating_add(history.own_bytes());
            ThrottledLane { lane: lane.clone(), kept_bytes, history_bytes }
        });
        let due: Vec<_> = due.collect();
        known.warned.extend(due.iter().map(|throttled| (throttled.lane.clone(), now)));
        due
    }
}

impl Drop for HistoryReservation {
    fn drop(&mut self) {
        let known = &mut *self.limit.known.lock();
        let lane = known.lanes.entry(self.lane.clone()).or_default();
        lane.in_flight_bytes = lane.in_flight_bytes.saturating_sub(self.size_bytes);
        lane.added_bytes += self.size_bytes;
    }
}

impl LaneHistory {
    /// What this host has added that the last look may not contain.
    fn own_bytes(&self) -> u64 {
        self.in_flight_bytes + self.added_bytes + self.added_before_look_bytes
    }
}

impl KnownHistory {
    /// How much this host may add to the history between two looks, if the store has a limit.
    fn step_bytes(&self) -> Option<u64> {
        Some(self.limits?.lane_bytes / STEP_DIVISOR / self.hosts)
    }

    fn sums(&self) -> Option<HistorySums> {
        let HistoryBytesLimits { history_bytes, lane_bytes } = self.limits?;
        let sum = |of: fn(&LaneHistory) -> u64| self.lanes.values().map(of).fold(0, u64::saturating_add);
        let seen_bytes = sum(|lane| lane.seen_bytes);
        let room_to = |level_bytes: u64| level_bytes.saturating_sub(seen_bytes) / self.hosts;
        Some(HistorySums {
            own_bytes: sum(LaneHistory::own_bytes),
            large_room_bytes: room_to(history_bytes.saturating_add(lane_bytes / LARGE_DIVISOR)),
            room_bytes: room_to(history_bytes.saturating_add(lane_bytes / OTHERS_DIVISOR)),
            share_bytes: history_bytes / (self.lanes.len() as u64).max(1),
        })
    }
}

/// What this host added and may add to the history of all lanes.
struct HistorySums {
    own_bytes: u64,
    /// What it may add before lanes with more than an equal share wait.
    large_room_bytes: u64,
    /// What it may add before others wait.
    room_bytes: u64,
    /// An equal share of the history for each lane.
    share_bytes: u64,
}

impl HistorySums {
    fn must_wait(&self, lane: &LaneHistory) -> bool {
        let size_bytes = lane.seen_bytes.saturating_add(lane.own_bytes());
        let room_bytes = if size_bytes > self.share_bytes { self.large_room_bytes } else { self.room_bytes };
        self.own_bytes >= room_bytes && size_bytes > self.share_bytes / SMALL_DIVISOR
    }
}

/// The bytes of payload and result that a record keeps in the history.
fn data_bytes(record: &EventRecord) -> u64 {
    let size_bytes = |data: Option<&EventData>| data.map_or(0, |data| data.bytes.len() as u64);
    let result = record.end.as_ref().and_then(|end| end.result.as_ref());
    size_bytes(record.event.data.as_ref()) + size_bytes(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Receipt;
    use crate::event::{DataKind, Event, EventId, Timestamp};

    fn lane(name: &str) -> Lane {
        name.parse().unwrap()
    }

    /// What a store says whose history may take 80,000 bytes and a lane 40,000.
    fn look(kept: &[(&str, u64)], hosts: u64) -> QueueDepth {
        QueueDepth {
            max_history_bytes: Some(80_000),
            max_lane_bytes: Some(40_000),
            kept_bytes_by_lane: kept.iter().map(|(name, bytes)| ((*name).into(), *bytes)).collect(),
            consumers: hosts,
            ..QueueDepth::default()
        }
    }

    fn limit(kept: &[(&str, u64)], hosts: u64) -> Arc<HistoryLimit> {
        let limit = Arc::new(HistoryLimit::default());
        limit.update(&look(kept, hosts));
        limit
    }

    fn processed(name: &str, size_bytes: usize) -> SettleRequest {
        let data = EventData { bytes: vec![0; size_bytes].into(), kind: DataKind::Binary };
        let event = Event::new("t".parse().unwrap(), "/s", Timestamp::from_unix_ms(0));
        let record = EventRecord::new(Event { data: Some(data), ..event });
        let receipt = Receipt { event_id: EventId::new(), lane: lane(name), entry: String::new(), deliveries: 1 };
        let settlement = Settlement::Processed;
        SettleRequest { receipt, record, settlement, lane: lane(name), publish: Vec::new(), state: None }
    }

    fn reserve(limit: &Arc<HistoryLimit>, name: &str, size_bytes: usize) -> Option<HistoryReservation> {
        limit.reserve(&lane(name), &processed(name, size_bytes).record)
    }

    fn waiting(limit: &HistoryLimit, now: Instant) -> Vec<String> {
        let mut waiting: Vec<_> = limit.throttled_lanes(now).iter().map(ToString::to_string).collect();
        waiting.sort();
        waiting
    }

    #[test]
    fn a_lane_with_large_results_waits_once_the_history_is_past_its_limit() {
        let (limit, now) = (limit(&[("hog", 80_000), ("b", 500)], 1), Instant::now());
        assert_eq!(waiting(&limit, now), Vec::<String>::new());
        let one = reserve(&limit, "hog", 4_400);
        assert!(!limit.must_wait(&lane("hog")));
        let two = reserve(&limit, "hog", 4_400);
        assert!(limit.must_wait(&lane("hog")) && !limit.must_wait(&lane("b")), "it counts before it is settled");
        drop((one, two));
        assert_eq!(waiting(&limit, now), ["hog"], "a settled record counts until a look contains it");
        limit.begin_look();
        assert_eq!(waiting(&limit, now), ["hog"]);
        limit.update(&look(&[("hog", 80_000), ("b", 500)], 1));
        assert_eq!(waiting(&limit, now), Vec::<String>::new(), "the store has trimmed it");
    }

    #[test]
    fn others_wait_later_and_lanes_with_next_to_no_history_never() {
        let limit = limit(&[("hog", 80_000), ("b", 10_000), ("new", 3_000)], 1);
        let now = Instant::now();
        assert_eq!(waiting(&limit, now), ["hog"]);
        let _more = reserve(&limit, "b", 8_000);
        assert_eq!(waiting(&limit, now), ["b", "hog"]);
        let _more = reserve(&limit, "new", 4_100);
        assert_eq!(waiting(&limit, now), ["b", "hog", "new"], "it has more than an eighth of a share by now");
    }

    #[test]
    fn hosts_share_the_room_that_each_of_them_sees() {
        let limit = limit(&[("hog", 70_000)], 2);
        let _half = reserve(&limit, "hog", 7_000);
        assert!(!limit.must_wait(&lane("hog")));
        let _more = reserve(&limit, "hog", 5_000);
        assert!(limit.must_wait(&lane("hog")));
    }

    #[test]
    fn a_lane_that_waited_long_begins_a_few_attempts() {
        let (limit, start) = (limit(&[("hog", 200_000)], 1), Instant::now());
        assert_eq!(waiting(&limit, start), ["hog"]);
        assert_eq!(waiting(&limit, start + LONGEST_WAIT - Duration::from_millis(1)), ["hog"]);
        assert_eq!(waiting(&limit, start + LONGEST_WAIT), Vec::<String>::new());
        assert_eq!(waiting(&limit, start + LONGEST_WAIT), ["hog"]);
        let throttled = ThrottledLane { lane: lane("hog"), kept_bytes: 200_000, history_bytes: 80_000 };
        assert_eq!(limit.take_unwarned(start), [throttled]);
        assert_eq!(limit.take_unwarned(start), [], "it was just said");
        assert_eq!(limit.take_unwarned(start + WARN_INTERVAL).len(), 1);
    }

    #[test]
    fn without_a_limit_nothing_waits_and_nothing_is_left_out() {
        let limit = Arc::new(HistoryLimit::default());
        let _more = reserve(&limit, "a", 1 << 20);
        assert!(!limit.must_wait(&lane("a")) && limit.throttled_lanes(Instant::now()).is_empty());
        assert_eq!(limit.keep_attempt(&lane("a"), 1 << 40), AttemptDetail::Whole);
    }

    #[test]
    fn what_is_added_between_two_looks_is_trimmed_at_once_and_shortens_attempts() {
        use AttemptDetail::{Brief, Compact, Whole};
        let limit = limit(&[], 1);
        let keep = |name: &str, bytes| limit.keep_attempt(&lane(name), bytes);
        let is_woken = || std::pin::pin!(limit.grew.notified()).as_mut().enable();
        limit.note_settled([&processed("b", 1)].into_iter());
        assert!(!is_woken());
        assert_eq!((keep("a", 3_000), keep("a", 3_000), keep("b", 3_000)), (Whole, Brief, Whole));
        limit.note_settled([&processed("b", 1)].into_iter());
        assert!(is_woken(), "more than an eighth of a lane was added");
        assert_eq!((keep("a", 3_000), keep("a", 3_000), keep("a", 0)), (Brief, Brief, Compact));
        limit.begin_look();
        limit.update(&look(&[], 1));
        assert_eq!(keep("a", 3_000), Whole);
    }
}
