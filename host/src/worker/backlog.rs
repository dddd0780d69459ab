//! Whether handlers may publish, given how many events wait.
//!
//! Handlers may publish beyond the limit at which clients are refused, because a full store must still be worked off. But
//! an attempt is postponed if it publishes
//! - into the lane of another plugin that is half full, so that the other half stays free for clients;
//! - into a lane past its limit while twice as many events wait in all as clients may add to;
//! - into a lane whose events take as many bytes as they may.
//!
//! So a plugin that publishes more than it handles stops itself, and does not fill the lanes of others. The figures are
//! refreshed about once a second; handlers may exceed the limits by what they publish in between.

use std::collections::{BTreeMap, HashMap};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use crate::broker::{Lane, LaneLimits, QueueDepth};

/// Handlers may publish until `max_waiting`, at which clients are refused, is exceeded by this factor.
const MAX_WAITING_FACTOR: u64 = 2;
/// Other plugins may fill a lane up to its limit divided by this.
const OTHERS_DIVISOR: u64 = 2;

/// Limits what handlers publish by what waits in the store.
#[derive(Debug)]
pub(super) struct BacklogLimit {
    limits: ArcSwap<LaneLimits>,
    known: ArcSwap<KnownBacklog>,
    /// How many bytes the handlers of this host have published since `known` was updated.
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
    /// A limit without figures. Clients are refused when `max_waiting` events wait.
    pub(super) fn new(max_waiting: u64) -> Self {
        let limits = LaneLimits::new(max_waiting, BTreeMap::new());
        Self { limits: ArcSwap::from_pointee(limits), known: ArcSwap::default(), published_bytes: Mutex::default() }
    }

    /// Sets the limits of lanes that have their own.
    pub(super) fn limit_lanes(&self, own: BTreeMap<Lane, u64>) {
        let limits = LaneLimits::new(self.limits.load().all(), own);
        self.limits.store(limits.into());
    }

    /// Replaces the figures.
    pub(super) fn update(&self, depth: &QueueDepth) {
        let by_lane = |all: &BTreeMap<String, u64>| {
            all.iter().filter_map(|(name, count)| Some((name.parse().ok()?, *count))).collect::<HashMap<Lane, u64>>()
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

    /// Why an attempt of the plugin with the lane `own` must not publish into these lanes now. `targets` are lanes and
    /// payload bytes. If the answer is `None`, the bytes count as published.
    pub(super) fn obstacle(&self, own: &Lane, targets: &[(Lane, u64)]) -> Option<String> {
        let for_lane = |lane| self.count_obstacle(own, lane).or_else(|| self.bytes_obstacle(own, lane));
        let obstacle = targets.iter().find_map(|(lane, _)| for_lane(lane));
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

    fn bytes_obstacle(&self, own: &Lane, lane: &Lane) -> Option<String> {
        let known = self.known.load();
        let limit_bytes = known.max_lane_bytes?;
        let limit_bytes = if lane == own { limit_bytes } else { limit_bytes / OTHERS_DIVISOR };
        let published = self.published_bytes().get(lane).copied().unwrap_or(0);
        let waiting_bytes = known.bytes_by_lane.get(lane).copied().unwrap_or(0).saturating_add(published);
        (waiting_bytes > 0 && waiting_bytes >= limit_bytes).then(|| {
            format!(
                "the events in the lane {lane} take {waiting_bytes} bytes; this plugin may publish into it while they take \
                 less than {limit_bytes} (broker.max_waiting_bytes, or the space that the store has)"
            )
        })
    }

    fn count_obstacle(&self, own: &Lane, lane: &Lane) -> Option<String> {
        let (limits, known) = (self.limits.load(), self.known.load());
        let most = limits.all().saturating_mul(MAX_WAITING_FACTOR);
        let (waiting, limit) = (known.by_lane.get(lane).copied().unwrap_or(0), limits.of(lane));
        let limit_for_others = limit.div_ceil(OTHERS_DIVISOR);
        if lane != own && waiting >= limit_for_others {
            let is_unrouted = *lane == Lane::unrouted();
            let setting = if is_unrouted { "broker".to_owned() } else { format!("plugins.{lane}") };
            return Some(format!(
                "{waiting} events wait in the lane {lane}; other plugins may publish into it while fewer than \
                 {limit_for_others} wait (half of {setting}.max_waiting)"
            ));
        }
        (waiting >= limit && known.waiting >= most).then(|| {
            format!(
                "{} events wait, {waiting} of them in the lane {lane}; handlers may publish into a lane past its limit of \
                 {limit} while fewer than {most} wait in all ({MAX_WAITING_FACTOR} times broker.max_waiting)",
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

    fn backlog(waiting: &[(&str, u64)]) -> BacklogLimit {
        let backlog = BacklogLimit::new(100);
        let waiting_by_lane: BTreeMap<String, u64> = waiting.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let scheduled = waiting_by_lane.values().sum();
        backlog.update(&QueueDepth { scheduled, waiting_by_lane, ..QueueDepth::default() });
        backlog
    }

    fn may_publish(backlog: &BacklogLimit, own: &str, into: &str) -> bool {
        backlog.obstacle(&lane(own), &[(lane(into), 10)]).is_none()
    }

    #[test]
    fn a_plugin_publishes_into_its_own_lane_until_twice_the_limit_of_clients_waits() {
        for (waiting, may) in [(0, true), (20, true), (199, true), (200, false), (5_000, false)] {
            assert_eq!(may_publish(&backlog(&[("a", waiting)]), "a", "a"), may, "{waiting}");
        }
    }

    #[test]
    fn a_full_lane_does_not_limit_publishes_into_another() {
        let backlog = backlog(&[("a", 5_000), ("b", 9)]);
        assert!(may_publish(&backlog, "b", "b") && may_publish(&backlog, "c", "b") && may_publish(&backlog, "a", "b"));
        assert!(!may_publish(&backlog, "b", "a"));
    }

    #[test]
    fn other_plugins_fill_half_of_a_lane() {
        for (waiting, may) in [(0, true), (9, true), (10, false), (20, false)] {
            assert_eq!(may_publish(&backlog(&[("b", waiting)]), "a", "b"), may, "{waiting}");
        }
        let backlog = backlog(&[("b", 10), ("_", 10)]);
        let why = |into: &str| backlog.obstacle(&lane("a"), &[(lane(into), 10)]).unwrap();
        assert!(why("b").contains("plugins.b.max_waiting"), "{}", why("b"));
        assert!(why("_").contains("broker.max_waiting"), "{}", why("_"));
        backlog.limit_lanes(BTreeMap::from([(lane("b"), 40)]));
        assert!(may_publish(&backlog, "a", "b"));
    }

    #[test]
    fn bytes_published_since_the_last_update_count() {
        let backlog = BacklogLimit::new(100);
        let depth = QueueDepth { max_lane_bytes: Some(25), ..QueueDepth::default() };
        backlog.update(&depth);
        assert!(may_publish(&backlog, "a", "a") && may_publish(&backlog, "a", "a") && may_publish(&backlog, "a", "a"));
        let why = backlog.obstacle(&lane("a"), &[(lane("a"), 10)]).unwrap();
        assert!(why.contains("30 bytes") && why.contains("broker.max_waiting_bytes"), "{why}");
        assert!(may_publish(&backlog, "a", "b") && may_publish(&backlog, "a", "b") && !may_publish(&backlog, "a", "b"));
        backlog.update(&depth);
        assert!(may_publish(&backlog, "a", "a"), "the store says that nothing waits");
    }
}
