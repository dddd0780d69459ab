//! Whether a store works, how durable it is, and how many events it accepted, ended and holds.

use std::collections::BTreeMap;

use super::lane_bytes::{self, ATTEMPTS_ROOM_BYTES};

use serde::Serialize;

use crate::event::FailureClass;

/// Whether a store works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreHealth {
    /// How durable an accepted event is.
    pub durability: Durability,
    /// What an operator should change although the store works.
    pub warning: Option<String>,
    /// Why the store does not work, as a sentence for an operator; `None` if it works.
    pub trouble: Option<String>,
    /// Whether the store accepts events.
    pub accepting: bool,
    /// Whether accepted events are handled.
    pub handling: bool,
}

impl StoreHealth {
    /// The health of a store without trouble.
    pub fn good(durability: Durability) -> Self {
        Self { durability, warning: None, trouble: None, accepting: true, handling: true }
    }

    /// Whether the store accepts events and accepted events are handled.
    pub fn ready(&self) -> bool {
        self.trouble.is_none()
    }
}

/// How durable an accepted event is (G1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is on stable storage before the answer.
    Fsync,
    /// It is on stable storage about a second after the answer.
    Everysec,
    /// The operating system writes it at some time, or never.
    None,
    /// The store does not say.
    Unknown,
}

impl Durability {
    /// The value as answers, logs and metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Everysec => "everysec",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// Totals and depth of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerStats {
    /// Totals since the store was made.
    pub counters: EventCounters,
    /// How many events the store holds now.
    pub depth: QueueDepth,
}

/// Totals of a deployment since its store was made. They survive restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventCounters {
    /// Events that clients sent and that were appended, and events imported from another store.
    pub accepted: u64,
    /// Events that clients sent again and that were not appended.
    pub duplicates: u64,
    /// Events that handlers published.
    pub published: u64,
    /// Events that were processed.
    pub processed: u64,
    /// Events that failed. An event that is replayed and fails again counts twice.
    pub failed: u64,
    /// `failed` by class.
    pub failed_by_class: BTreeMap<FailureClass, u64>,
    /// Attempts that are followed by another.
    pub retried: u64,
    /// Attempts that were deferred because a limit of the deployment was reached.
    pub deferred: u64,
    /// Failed events that were replayed.
    pub replayed: u64,
    /// Events that were discarded or cancelled.
    pub discarded: u64,
    /// Deliveries that were taken over from another consumer.
    pub recovered: u64,
    /// How often the store was found to have lost data (G11).
    pub data_losses: u64,
    /// How often an event was handled again because the plugin state that its handler read had changed.
    pub state_conflicts: u64,
}

/// How many events a store holds, by what happens to them next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Events that wait for a consumer, by lane.
    pub queued: BTreeMap<String, u64>,
    /// Events that have not ended, by lane.
    pub waiting_by_lane: BTreeMap<String, u64>,
    /// About how many bytes these take, by lane.
    pub waiting_bytes_by_lane: BTreeMap<String, u64>,
    /// About how many bytes the failed events take that the store keeps, by lane.
    pub failed_bytes_by_lane: BTreeMap<String, u64>,
    /// The most waiting and failed bytes of one lane; `None` if the store has no such limit.
    pub max_lane_bytes: Option<u64>,
    /// What one lane may take of the store while it has room; see [`Self::lane_level_bytes`]. `None` if its size is unknown.
    pub lane_share_bytes: Option<u64>,
    /// The most bytes of processed and discarded events that the store keeps; more are trimmed soon. `None` if it has no
    /// such limit.
    pub max_history_bytes: Option<u64>,
    /// About how many bytes the processed and the discarded events take that the store keeps, by lane.
    pub kept_bytes_by_lane: BTreeMap<String, u64>,
    /// About how many bytes the idempotency keys take, by the lane of their events.
    pub idempotency_bytes_by_lane: BTreeMap<String, u64>,
    /// The most bytes of all idempotency keys; `None` if the store has no such limit.
    pub max_idempotency_bytes: Option<u64>,
    /// Events that are being handled.
    pub running: u64,
    /// Events that are due later: retries and delayed events.
    pub scheduled: u64,
    /// Processed events that the store keeps.
    pub processed_kept: u64,
    /// Failed events that the store keeps.
    pub failed_kept: u64,
    /// State keys of all plugins.
    pub state_keys: u64,
    /// Consumers that the store knows.
    pub consumers: u64,
}

impl QueueDepth {
    /// The most bytes that one lane may hold now; `None` for no limit.
    pub fn lane_level_bytes(&self) -> Option<u64> {
        let all = [&self.waiting_bytes_by_lane, &self.failed_bytes_by_lane];
        let stored_bytes = all.iter().flat_map(|lanes| lanes.values()).sum::<u64>();
        let room_bytes = self.waiting_by_lane.values().sum::<u64>().saturating_mul(ATTEMPTS_ROOM_BYTES);
        let (stored_bytes, lanes) = (stored_bytes.saturating_add(room_bytes), self.waiting_by_lane.len() as u64);
        Some(lane_bytes::lane_level_bytes(self.max_lane_bytes?, self.lane_share_bytes, stored_bytes, lanes))
    }

    /// The number of events that have not ended.
    pub fn waiting(&self) -> u64 {
        self.queued.values().sum::<u64>() + self.running + self.scheduled
    }
}
