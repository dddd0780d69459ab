//! What the broker is asked and what it answers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::event::{
    DeliveryStart, EventId, EventRecord, EventState, EventType, FailureClass, Idempotency, Settlement, StateStep,
    Timestamp,
};

/// A queue of its own for the events of one plugin, so that no plugin's events wait behind another's (G8).
///
/// A lane is about isolation only: an event is dispatched by its type, in whatever lane it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(Arc<str>);

impl Lane {
    /// The lane of events whose type no plugin handles. No plugin can be called so.
    pub fn unrouted() -> Self {
        Self("_".into())
    }

    /// The lane as text: the name of its plugin.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Lane {
    type Err = InvalidLane;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if name == "_" || (starts_well && name.len() <= 128 && name.chars().all(fits)) {
            return Ok(Self(name.into()));
        }
        Err(InvalidLane)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Lane {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Lane {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The text names no lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lane is 1 to 128 letters, digits and ._- and starts with a letter or digit")]
pub struct InvalidLane;

/// What every broker must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerOptions {
    /// Prefix of everything in a shared store.
    pub namespace: String,
    /// The readable part of the consumer's name.
    pub consumer_name: String,
    /// How long a delivery belongs to its consumer without being renewed.
    pub lease_ms: u64,
    /// The most events that may wait, be due later or be handled; see [`super::Error::Full`].
    pub max_waiting: u64,
    /// The most bytes that the events of one plugin may take while they wait; see [`super::Error::LaneHeavy`]. A store with
    /// little room allows less.
    pub max_waiting_bytes: u64,
    /// Serve from a store that may lose what it accepted (G1).
    pub allow_unsafe: bool,
    /// How long things are kept.
    pub retention: RetentionLimits,
}

/// How long what has ended is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Processed events are kept so long, in milliseconds.
    pub processed_ms: u64,
    /// And at most so many.
    pub processed_max: u64,
    /// And at most so many bytes of them. A store with little room keeps less.
    pub processed_max_bytes: u64,
    /// How long an idempotency key is remembered, in milliseconds.
    pub idempotency_ms: u64,
}

impl Default for BrokerOptions {
    /// The defaults of contract section 8.
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        Self {
            namespace: "es".into(),
            consumer_name: "eventstream".into(),
            lease_ms: 30_000,
            max_waiting: 1_000_000,
            max_waiting_bytes: 1 << 30,
            allow_unsafe: false,
            retention: RetentionLimits {
                processed_ms: 7 * DAY_MS,
                processed_max: 1_000_000,
                processed_max_bytes: 4 << 30,
                idempotency_ms: DAY_MS,
            },
        }
    }
}

/// An event to be appended, with the lane that the routing in force gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendRequest {
    /// The record of the event; new, for what comes in and for what handlers publish.
    pub record: EventRecord,
    /// Where it is to wait.
    pub lane: Lane,
    /// From when on it may be delivered.
    pub start: DeliveryStart,
    /// How to recognise it if it is sent again.
    pub idempotency: Option<Idempotency>,
}

/// The answer to an accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedEvent {
    /// The id of the event: of the first one, when this is a duplicate.
    pub id: EventId,
    /// The event was known already, and nothing was appended.
    pub duplicate: bool,
}

/// A wish for deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The lanes that have free slots, the one whose turn it is first.
    pub lanes: Vec<LaneDemand>,
    /// The host's own free slots.
    pub max: usize,
}

/// How many deliveries of a lane are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneDemand {
    /// The lane.
    pub lane: Lane,
    /// Its free slots.
    pub free: usize,
}

/// One hand-over of an event to this consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The event and its story.
    pub record: EventRecord,
    /// What proves that the delivery is this consumer's.
    pub receipt: Receipt,
    /// How often the entry was delivered, this time included; above 1, a consumer died or lost its lease on it.
    pub deliveries: u32,
}

impl Delivery {
    /// Which attempt this is; 1 for the first since the event was accepted or last replayed.
    pub fn attempt(&self) -> u32 {
        self.record.attempts_made.saturating_add(self.deliveries)
    }

    /// How many deliveries in a row have come to this one, those included after which the event was handed to another
    /// lane. Above 1, all before this one ended with their consumer.
    pub fn deliveries_in_a_row(&self) -> u32 {
        self.record.attempts_lost().saturating_add(self.deliveries)
    }
}

/// Proof of a delivery: consumer, entry and delivery count together (G4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The event.
    pub event_id: EventId,
    /// The lane in which its entry stands.
    pub lane: Lane,
    /// The broker's name for the entry.
    pub entry: String,
    /// The delivery count at hand-over.
    pub deliveries: u32,
}

/// What is to become of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct SettleRequest {
    /// Proof that it is ours.
    pub receipt: Receipt,
    /// The record with the attempt and, if the event ended, its end.
    pub record: EventRecord,
    /// What becomes of it.
    pub settlement: Settlement,
    /// The lane in which it waits next, if it does.
    pub lane: Lane,
    /// The events that its handler published; appended in the same step, by no depth limit.
    pub publish: Vec<AppendRequest>,
    /// What its handler saw and changed of the plugin's state; written in the same step, if nothing came in between.
    pub state: Option<StateStep>,
}

/// What became of a settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// It took effect, now or when it was asked the first time.
    Done,
    /// The delivery was no longer this consumer's, and nothing changed.
    Lost,
    /// Somebody else changed what the handler had seen of its state. Nothing changed, and the delivery is still this
    /// consumer's: it is to be handled again.
    Conflict,
}

/// What [`super::Broker::promote`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromoteOutcome {
    /// Events that were moved to their lanes.
    pub moved: usize,
    /// More are due already.
    pub more: bool,
    /// When the next one is due, from now; `None` if nothing is scheduled.
    pub next_due_in_ms: Option<u64>,
}

/// What [`super::Broker::replay`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// The event is back at work.
    Done,
    /// The event exists, but is not failed.
    NotFailed(EventState),
    /// There is no such event.
    Unknown,
}

/// An event and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundEvent {
    /// The event and its story.
    pub record: EventRecord,
    /// Where it stands.
    pub state: EventState,
    /// When it is next due, for `scheduled` and `retrying`.
    pub due: Option<Timestamp>,
}

/// About how many bytes a page of ended events has at most, so that no answer takes the memory of a thousand of the
/// largest events (G12). The event that goes past it is still on the page.
pub const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Which ended events are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedQuery {
    /// Processed or failed ones.
    pub ending: EndKind,
    /// Of this type only.
    pub event_type: Option<EventType>,
    /// Of this class only; means nothing for processed ones.
    pub class: Option<FailureClass>,
    /// Ended at or after.
    pub since: Option<Timestamp>,
    /// Ended before.
    pub until: Option<Timestamp>,
    /// The most events of a page, 1 to 1,000.
    pub limit: usize,
    /// Where the last page ended.
    pub cursor: Option<String>,
    /// Payloads and results are not needed: a store that can leave them out does, since they are most of what it reads.
    pub only_heads: bool,
}

/// The two ends that are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// Processed events.
    Processed,
    /// Failed events.
    Failed,
}

/// A page of ended events.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedPage {
    /// The events, newest first. May be fewer than asked for, even none, though there are more.
    pub records: Vec<EventRecord>,
    /// Where to go on; `None` at the end.
    pub next_cursor: Option<String>,
}

/// Totals and depth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerStats {
    /// Totals of the whole deployment; they survive restarts.
    pub counters: EventCounters,
    /// How much waits where.
    pub depth: QueueDepth,
}

/// Totals of the whole deployment since its store was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventCounters {
    /// Events appended by clients, and those taken over from another store.
    pub accepted: u64,
    /// Events that clients sent again.
    pub duplicates: u64,
    /// Events appended by handlers.
    pub published: u64,
    /// Events that ended well.
    pub processed: u64,
    /// Events that ended badly; one that is replayed and fails again counts twice.
    pub failed: u64,
    /// `failed` by class.
    pub failed_by_class: BTreeMap<FailureClass, u64>,
    /// Attempts that are followed by another.
    pub retried: u64,
    /// Attempts that were put off since a limit of the deployment was in their way.
    pub deferred: u64,
    /// Failed events put back to work.
    pub replayed: u64,
    /// Deliveries taken over from consumers that died or lost touch.
    pub recovered: u64,
    /// Times that the store was found to have lost data (G11).
    pub data_losses: u64,
    /// Times that an event was handled again since the state that its handler had seen was changed meanwhile.
    pub state_conflicts: u64,
}

/// How much waits where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Waiting for a consumer, by lane.
    pub queued: BTreeMap<String, u64>,
    /// Everything that has not ended, by lane.
    pub waiting_by_lane: BTreeMap<String, u64>,
    /// About how many bytes that takes, by lane.
    pub waiting_bytes_by_lane: BTreeMap<String, u64>,
    /// How many bytes of one lane may wait; `None` if the store has no such limit.
    pub max_lane_bytes: Option<u64>,
    /// About how many bytes the processed events take that are kept, by lane.
    pub kept_bytes_by_lane: BTreeMap<String, u64>,
    /// Being handled.
    pub running: u64,
    /// Due later: retries and delayed events.
    pub scheduled: u64,
    /// Processed events that are kept.
    pub processed_kept: u64,
    /// Failed events that are kept.
    pub failed_kept: u64,
    /// Keys of all plugins' state.
    pub state_keys: u64,
    /// Consumers that the store knows.
    pub consumers: u64,
}

impl QueueDepth {
    /// Everything that has not ended.
    pub fn waiting(&self) -> u64 {
        self.queued.values().sum::<u64>() + self.running + self.scheduled
    }
}

/// Whether the store can be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreHealth {
    /// How durable an accepted event is.
    pub durability: Durability,
    /// Why the store cannot be worked with, as a sentence for an operator; `None` when it can.
    pub trouble: Option<String>,
    /// Whether events are accepted.
    pub accepting: bool,
    /// Whether events that were accepted are handled.
    pub handling: bool,
}

impl StoreHealth {
    /// The health of a store without trouble.
    pub fn good(durability: Durability) -> Self {
        Self { durability, trouble: None, accepting: true, handling: true }
    }

    /// Whether events are accepted and handled.
    pub fn ready(&self) -> bool {
        self.trouble.is_none()
    }
}

/// How durable an accepted event is (G1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On stable storage before the answer.
    Fsync,
    /// On stable storage about a second after the answer.
    Everysec,
    /// When the operating system sees fit, or never.
    None,
    /// The store does not say.
    Unknown,
}

impl Durability {
    /// The durability as it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Everysec => "everysec",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}
