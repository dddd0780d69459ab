//! How many events wait in the store, as far as this host knows, and whether handlers may add to them.
//!
//! What handlers publish is not refused where clients are, since the store is to be worked off when it is full. But an
//! attempt that publishes is put off
//! - into the lane of another plugin while that lane is half full, so that its own clients keep the other half;
//! - into a lane that is past its limit while twice as many events wait in all as clients may add to.
//! - into a lane whose events take as many bytes as they may.
//!
//! So a plugin that publishes more than it handles comes to a halt by itself, and fills no other plugin's lane. The
//! numbers are looked at every second or so, and may be exceeded by what is published in that time.

use std::collections::{BTreeMap, HashMap};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use crate::broker::{Lane, LaneLimits, QueueDepth};

/// How many times as many events may wait before handlers are put off as before clients are refused.
const TIMES_MAX_WAITING: u64 = 2;
/// The part of a lane that other plugins may fill: one in so many.
const OTHERS_PART: u64 = 2;

/// What this host knows of how many events wait.
#[derive(Debug)]
pub(super) struct BacklogLimit {
    limits: ArcSwap<LaneLimits>,
    known: ArcSwap<KnownBacklog>,
    /// What handlers of this host have published since then, in bytes.
    published_bytes: Mutex<HashMap<Lane, u64>>,
}

#[derive(Debug, Default)]
struct KnownBacklog {
    waiting: u64,
    by_lane: HashMap<Lane, u64>,
    bytes_by_lane: HashMap<Lane, u64>,
    max_lane_bytes: Option<u64>,
}

impl BacklogLimit {
    /// Nothing known yet. Clients are refused when `max_waiting` events wait.
    pub(super) fn new(max_waiting: u64) -> Self {
        let limits = LaneLimits::new(max_waiting, BTreeMap::new());
        Self { limits: ArcSwap::from_pointee(limits), known: ArcSwap::default(), published_bytes: Mutex::default() }
    }

    /// Takes the limits of lanes that have one of their own.
    pub(super) fn limit_lanes(&self, own: BTreeMap<Lane, u64>) {
        let limits = LaneLimits::new(self.limits.load().all(), own);
        self.limits.store(limits.into());
    }

    /// So much waits now.
    pub(super) fn note(&self, depth: &QueueDepth) {
        let by_lane = |all: &BTreeMap<String, u64>| {
            all.iter().filter_map(|(name, much)| Some((name.parse().ok()?, *much))).collect::<HashMap<Lane, u64>>()
        };
        let known = KnownBacklog {
            waiting: depth.waiting(),
            by_lane: by_lane(&depth.waiting_by_lane),
            bytes_by_lane: by_lane(&depth.waiting_bytes_by_lane),
            max_lane_bytes: depth.max_lane_bytes,
        };
        self.published_bytes().clear();
        self.known.store(known.into());
    }

    /// Why an attempt of the plugin of lane `own` may not publish so many bytes into each of these lanes now, if so. If not,
    /// they count as published.
    pub(super) fn obstacle(&self, own: &Lane, targets: &[(Lane, u64)]) -> Option<String> {
        let lanes = targets.iter().map(|(lane, _)| lane);
        let obstacle = lanes.clone().find_map(|lane| self.too_many(own, lane).or_else(|| self.too_much(own, lane)));
        if obstacle.is_none() && self.known.load().max_lane_bytes.is_some() {
            let mut published = self.published_bytes();
            for (lane, size_bytes) in targets {
                let so_far = published.entry(lane.clone()).or_default();
                *so_far = so_far.saturating_add(*size_bytes);
            }
        }
        obstacle
    }

    fn published_bytes(&self) -> MutexGuard<'_, HashMap<Lane, u64>> {
        self.published_bytes.lock()
    }

    fn too_much(&self, own: &Lane, lane: &Lane) -> Option<String> {
        let known = self.known.load();
        let limit_bytes = known.max_lane_bytes?;
        let limit_bytes = if lane == own { limit_bytes } else { limit_bytes / OTHERS_PART };
        let published = self.published_bytes().get(lane).copied().unwrap_or(0);
        let waiting_bytes = known.bytes_by_lane.get(lane).copied().unwrap_or(0).saturating_add(published);
        (waiting_bytes > 0 && waiting_bytes >= limit_bytes).then(|| {
            format!(
                "the events in the lane {lane} take {waiting_bytes} bytes, and this plugin may publish into it while they \
                 take less than {limit_bytes} (broker.max_waiting_bytes, or the room of the store)"
            )
        })
    }

    fn too_many(&self, own: &Lane, lane: &Lane) -> Option<String> {
        let (limits, known) = (self.limits.load(), self.known.load());
        let most = limits.all().saturating_mul(TIMES_MAX_WAITING);
        let (waiting, limit) = (known.by_lane.get(lane).copied().unwrap_or(0), limits.of(lane));
        let others = limit.div_ceil(OTHERS_PART);
        if lane != own && waiting >= others {
            let is_unrouted = *lane == Lane::unrouted();
            let setting = if is_unrouted { "broker".to_owned() } else { format!("plugins.{lane}") };
            return Some(format!(
                "{waiting} events wait in the lane {lane}, and other plugins may publish into it while fewer than {others} \
                 do (half of what {setting}.max_waiting allows)"
            ));
        }
        (waiting >= limit && known.waiting >= most).then(|| {
            format!(
                "{} events wait, {waiting} of them in the lane {lane}; handlers may publish into a lane past its limit of \
                 {limit} while fewer than {most} wait in all ({TIMES_MAX_WAITING} times broker.max_waiting)",
                known.waiting
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> Lane {
        name.parse().unwrap()
    }

    fn crowd(waiting: &[(&str, u64)]) -> BacklogLimit {
        let crowd = BacklogLimit::new(100);
        let waiting_by_lane: BTreeMap<String, u64> = waiting.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        crowd.note(&QueueDepth { scheduled: waiting_by_lane.values().sum(), waiting_by_lane, ..QueueDepth::default() });
        crowd
    }

    fn may_publish(crowd: &BacklogLimit, own: &str, into: &str) -> bool {
        crowd.obstacle(&lane(own), &[(lane(into), 10)]).is_none()
    }

    #[test]
    fn a_plugin_publishes_into_its_own_lane_until_twice_as_many_wait_as_clients_may_add_to() {
        for (waiting, may) in [(0, true), (20, true), (199, true), (200, false), (5_000, false)] {
            assert_eq!(may_publish(&crowd(&[("a", waiting)]), "a", "a"), may, "{waiting}");
        }
    }

    #[test]
    fn a_crowd_in_one_lane_puts_nobody_off_who_publishes_into_another() {
        let crowd = crowd(&[("a", 5_000), ("b", 9)]);
        assert!(may_publish(&crowd, "b", "b") && may_publish(&crowd, "c", "b") && may_publish(&crowd, "a", "b"));
        assert!(!may_publish(&crowd, "b", "a"));
    }

    #[test]
    fn other_plugins_fill_half_of_a_lane() {
        for (waiting, may) in [(0, true), (9, true), (10, false), (20, false)] {
            assert_eq!(may_publish(&crowd(&[("b", waiting)]), "a", "b"), may, "{waiting}");
        }
        let crowd = crowd(&[("b", 10), ("_", 10)]);
        let why = |into: &str| crowd.obstacle(&lane("a"), &[(lane(into), 10)]).unwrap();
        assert!(why("b").contains("plugins.b.max_waiting"), "{}", why("b"));
        assert!(why("_").contains("broker.max_waiting"), "{}", why("_"));
        crowd.limit_lanes(BTreeMap::from([(lane("b"), 40)]));
        assert!(may_publish(&crowd, "a", "b"));
    }

    #[test]
    fn what_was_published_meanwhile_counts_by_its_bytes() {
        let crowd = BacklogLimit::new(100);
        let depth = QueueDepth { max_lane_bytes: Some(25), ..QueueDepth::default() };
        crowd.note(&depth);
        assert!(may_publish(&crowd, "a", "a") && may_publish(&crowd, "a", "a") && may_publish(&crowd, "a", "a"));
        let why = crowd.obstacle(&lane("a"), &[(lane("a"), 10)]).unwrap();
        assert!(why.contains("30 bytes") && why.contains("broker.max_waiting_bytes"), "{why}");
        assert!(may_publish(&crowd, "a", "b") && may_publish(&crowd, "a", "b") && !may_publish(&crowd, "a", "b"));
        crowd.note(&depth);
        assert!(may_publish(&crowd, "a", "a"), "the store says that it has gone");
    }
}
