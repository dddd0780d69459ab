//! How much each lane and each plugin may take of the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use crate::broker::lane_bytes::shrinking_share;
use crate::broker::{BrokerOptions, Error, Lane, LaneLimits, QueueDepth};

/// One plugin may take one part in so many of the memory of Redis.
const MEMORY_PARTS: u64 = 8;
/// About how many bytes an event takes besides its record: its places in the stream and in the index.
const ENTRY_BYTES: u64 = 250;
/// About how many bytes an idempotency key takes.
pub(super) const IDEMPOTENCY_KEY_BYTES: u64 = 280;

/// The limits of the store and what is known of their use.
pub(super) struct StoreCapacity {
    max_waiting_bytes: u64,
    processed_max_bytes: u64,
    idempotency_max_bytes: u64,
    /// How many events may wait. Changes with the plugins.
    limits: ArcSwap<LaneLimits>,
    /// The most bytes that one lane may hold now, and the most of the state of one plugin. About a second old.
    lane_level_bytes: AtomicU64,
    state_room_bytes: AtomicU64,
    /// The lanes over their limit of bytes, each with its waiting and its failed bytes. About a second old.
    overweight: ArcSwap<BTreeMap<Lane, (u64, u64)>>,
    /// The memory that Redis may use; 0 if it is unknown.
    memory_bytes: AtomicU64,
}

impl StoreCapacity {
    pub(super) fn new(options: &BrokerOptions) -> Self {
        Self {
            max_waiting_bytes: options.max_waiting_bytes,
            processed_max_bytes: options.retention.processed_max_bytes,
            idempotency_max_bytes: options.retention.idempotency_max_bytes,
            limits: ArcSwap::from_pointee(LaneLimits::new(options.max_waiting, BTreeMap::new())),
            lane_level_bytes: AtomicU64::new(u64::MAX),
            state_room_bytes: AtomicU64::new(u64::MAX),
            overweight: ArcSwap::default(),
            memory_bytes: AtomicU64::new(0),
        }
    }

    /// How many events may wait, in all and in each lane.
    pub(super) fn limits(&self) -> Guard<Arc<LaneLimits>> {
        self.limits.load()
    }

    /// Replaces the limits of single lanes.
    pub(super) fn set_lane_limits(&self, own: BTreeMap<Lane, u64>) {
        self.limits.store(Arc::new(LaneLimits::new(self.limits.load().all(), own)));
    }

    /// Notes the memory that Redis may use; 0 if it is unknown.
    pub(super) fn set_memory_bytes(&self, memory_bytes: u64) {
        self.memory_bytes.store(memory_bytes, Ordering::Relaxed);
    }

    /// Notes what lanes and plugins hold, which decides what each may hold until the next look.
    pub(super) fn note_depth(&self, depth: &QueueDepth, state_bytes: &BTreeMap<String, u64>) {
        let limit = depth.lane_level_bytes().unwrap_or(u64::MAX);
        self.lane_level_bytes.store(limit, Ordering::Relaxed);
        let bytes = depth.waiting_by_lane.keys().map(|name| {
            let of = |all: &BTreeMap<String, u64>| all.get(name).copied().unwrap_or(0);
            let overhead_bytes = of(&depth.waiting_by_lane).saturating_mul(ENTRY_BYTES);
            (name, (of(&depth.waiting_bytes_by_lane).saturating_add(overhead_bytes), of(&depth.failed_bytes_by_lane)))
        });
        let over = bytes.filter(|(_, (waiting, failed))| waiting.saturating_add(*failed) > limit);
        let overweight = over.filter_map(|(name, bytes)| Some((name.parse().ok()?, bytes))).collect();
        self.overweight.store(Arc::new(overweight));
        let kept_bytes = state_bytes.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let room =
            self.share_bytes().map_or(u64::MAX, |share| shrinking_share(share, kept_bytes, state_bytes.len() as u64));
        self.state_room_bytes.store(room, Ordering::Relaxed);
    }

    /// Fails if one of the lanes is over its limit of bytes.
    ///
    /// # Errors
    /// [`Error::LaneHeavy`]; retry later.
    pub(super) fn ensure_lanes_have_room<'l>(&self, lanes: impl IntoIterator<Item = &'l Lane>) -> Result<(), Error> {
        let overweight = self.overweight.load();
        match lanes.into_iter().find_map(|lane| overweight.get_key_value(lane)) {
            Some((lane, (waiting_bytes, failed_bytes))) => Err(Error::LaneHeavy {
                lane: lane.clone(),
                waiting_bytes: *waiting_bytes,
                failed_bytes: *failed_bytes,
                limit_bytes: self.max_lane_bytes(),
            }),
            None => Ok(()),
        }
    }

    /// The most bytes that the waiting and failed events of one lane may take now.
    pub(super) fn max_lane_bytes(&self) -> u64 {
        self.most_lane_bytes().min(self.lane_level_bytes.load(Ordering::Relaxed))
    }

    /// The most that they may ever take.
    pub(super) fn most_lane_bytes(&self) -> u64 {
        self.max_waiting_bytes.min(self.share_or_all())
    }

    /// The most bytes of processed and discarded events that are kept.
    pub(super) fn max_history_bytes(&self) -> u64 {
        self.processed_max_bytes.min(self.share_or_all().saturating_mul(2))
    }

    /// The most bytes that the idempotency keys of all lanes may take.
    pub(super) fn max_idempotency_bytes(&self) -> u64 {
        self.idempotency_max_bytes.min(self.share_or_all())
    }

    /// The most bytes that the state of one plugin may take; `None` if the memory of Redis is unknown.
    pub(super) fn max_state_bytes(&self) -> Option<u64> {
        Some(self.share_bytes()?.min(self.state_room_bytes.load(Ordering::Relaxed)))
    }

    /// What one lane or one plugin may take of the memory of Redis; `None` if that is unknown.
    pub(super) fn share_bytes(&self) -> Option<u64> {
        match self.memory_bytes.load(Ordering::Relaxed) {
            0 => None,
            all => Some(all / MEMORY_PARTS),
        }
    }

    fn share_or_all(&self) -> u64 {
        self.share_bytes().unwrap_or(u64::MAX)
    }
}
