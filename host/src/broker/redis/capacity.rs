//! How much each lane and each plugin may take of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use crate::broker::{BrokerOptions, Error, Lane, LaneLimits};

/// One plugin may take one part in so many of the memory of Redis.
const MEMORY_PARTS: u64 = 8;
/// About how many bytes an idempotency key takes.
pub(super) const IDEMPOTENCY_KEY_BYTES: u64 = 280;

/// The limits of the store and what is known of their use.
pub(super) struct StoreCapacity {
    max_waiting_bytes: u64,
    processed_max_bytes: u64,
    idempotency_max_bytes: u64,
    /// How many events may wait. Changes with the plugins.
    limits: ArcSwap<LaneLimits>,
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

    /// Notes the waiting and failed bytes of every lane, to refuse events for lanes over their limit.
    pub(super) fn note_lane_bytes(&self, waiting: &BTreeMap<String, u64>, failed: &BTreeMap<String, u64>) {
        let limit = self.max_lane_bytes();
        let names: BTreeSet<_> = waiting.keys().chain(failed.keys()).collect();
        let bytes = names.into_iter().map(|name| {
            let bytes_in = |all: &BTreeMap<String, u64>| all.get(name).copied().unwrap_or(0);
            (name, (bytes_in(waiting), bytes_in(failed)))
        });
        let over = bytes.filter(|(_, (waiting, failed))| waiting.saturating_add(*failed) > limit);
        let overweight = over.filter_map(|(name, bytes)| Some((name.parse().ok()?, bytes))).collect();
        self.overweight.store(Arc::new(overweight));
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

    /// The most bytes that the waiting and failed events of one lane may take.
    pub(super) fn max_lane_bytes(&self) -> u64 {
        self.max_waiting_bytes.min(self.share_bytes())
    }

    /// The most bytes of processed and discarded events that are kept.
    pub(super) fn max_history_bytes(&self) -> u64 {
        self.processed_max_bytes.min(self.share_bytes().saturating_mul(2))
    }

    /// The most bytes that the idempotency keys of all lanes may take.
    pub(super) fn max_idempotency_bytes(&self) -> u64 {
        self.idempotency_max_bytes.min(self.share_bytes())
    }

    /// The most bytes that the state of one plugin may take; `None` if the memory of Redis is unknown.
    pub(super) fn max_state_bytes(&self) -> Option<u64> {
        Some(self.share_bytes()).filter(|share_bytes| *share_bytes < u64::MAX)
    }

    /// What one plugin may take of the memory of Redis.
    fn share_bytes(&self) -> u64 {
        match self.memory_bytes.load(Ordering::Relaxed) {
            0 => u64::MAX,
            all => all / MEMORY_PARTS,
        }
    }
}
