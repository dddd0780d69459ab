//! An event and the words around it: what was accepted, where it stands, what an attempt came to, what happens next.
//!
//! Everything here is pure: no clock is read, no socket is opened, nothing is awaited. A value of one of these types is
//! valid by construction; input from outside is turned into them in [`draft`] and nowhere else.

mod draft;
mod id;
mod json;
pub mod limits;
mod outcome;
mod pattern;
mod plugin_state;
mod reader;
mod record;
mod retry;
mod time;

pub use draft::{DeliveryStart, EventDraft, EventFault, EventLimits, Idempotency, NewEvent, RejectedRequest};
pub use id::{EventId, EventType};
pub use outcome::{
    AttemptEffects, AttemptFailure, AttemptOutcome, FailureClass, PublishedEvent, Settlement, decide, defer,
};
pub use pattern::{InvalidPattern, TypePattern};
pub use plugin_state::{
    MAX_COUNTER, MAX_STATE_KEY_BYTES, NotACounter, STATE_KEY_BYTES, StateStep, StateWrite, StoredValue, add,
    state_bytes,
};
pub use record::{AttemptRecord, EventEnd, EventRecord, EventState, LogLevel, LogLine};
pub use retry::{MAX_PAUSE_MS, RetryPatch, RetryPolicies, RetryPolicy};
pub use time::{Timestamp, in_utc};

pub(crate) use json::depth_is_within;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The `source` of an event whose sender named none.
pub const DEFAULT_SOURCE: &str = "/events";
/// The header of every request that a plugin sends. A server of the same kind lets such a request publish and read only.
pub const SENT_BY_PLUGIN: &str = "eventstream-plugin";

/// What was accepted: the context attributes of CloudEvents 1.0 and the data.
///
/// Never changes after it was accepted; retries, redeliveries and replays hand over the same value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Ours, a UUID of version 7; the sender's own id, if it gave one, is the extension `sourceid`.
    pub id: EventId,
    /// What the event is routed by.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Where the event came from, as the sender says; 1 to 256 characters.
    pub source: String,
    /// What the event is about, within its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it happened, as the sender wrote it (RFC 3339, checked).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The media type of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_content_type: Option<String>,
    /// A URI of the schema that the data keeps to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_schema: Option<String>,
    /// CloudEvents extension attributes: names of lower-case letters and digits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
    /// When the server accepted it, by the clock of the host that did.
    pub accepted: Timestamp,
    /// The event whose handler published this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<EventId>,
    /// How many events caused it, one after the other: 0 for what a client sent, and for what was stored without it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// The payload, byte for byte as it came. Kept apart by the stores, so that it is never encoded again.
    #[serde(skip)]
    pub data: Option<EventData>,
}

/// Bytes with the one thing that must be known of them: whether they are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventData {
    /// The bytes as they came.
    pub bytes: Bytes,
    /// Whether they are valid UTF-8 of a JSON or text media type.
    pub kind: DataKind,
}

/// How data is handed to a handler: `text(string)` or `binary(list<u8>)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// Valid UTF-8.
    Text,
    /// Anything.
    Binary,
}

impl Event {
    /// An event with a new id and nothing but what every event has.
    pub fn new(event_type: EventType, source: impl Into<String>, accepted: Timestamp) -> Self {
        Self {
            id: EventId::new(),
            event_type,
            source: source.into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: BTreeMap::new(),
            accepted,
            cause: None,
            depth: 0,
            data: None,
        }
    }
}

pub(crate) fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl EventData {
    /// Data that is text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { bytes: Bytes::from(text.into()), kind: DataKind::Text }
    }

    /// Data that may be anything.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), kind: DataKind::Binary }
    }

    /// The text, if this is text. A store that returns damaged bytes yields `None`, never a panic.
    pub fn as_text(&self) -> Option<&str> {
        match self.kind {
            DataKind::Text => std::str::from_utf8(&self.bytes).ok(),
            DataKind::Binary => None,
        }
    }
}
