//! The event itself: the context attributes of CloudEvents 1.0 and the payload.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::id::{EventId, EventType};
use super::time::Timestamp;

/// An accepted event: the context attributes of CloudEvents 1.0 and the data.
///
/// It never changes: retries, redeliveries and replays deliver the same value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The id that this server made, a UUID of version 7. An id that the sender gave is the extension `sourceid`.
    pub id: EventId,
    /// The type, by which the event is routed to a plugin.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Where the event came from, as the sender says; 1 to 256 characters.
    pub source: String,
    /// What the event is about, within its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it happened, as the sender wrote it; valid RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The media type of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_content_type: Option<String>,
    /// The URI of the data's schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_schema: Option<String>,
    /// CloudEvents extension attributes. Their names consist of lower-case letters and digits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
    /// When the server accepted it, by the clock of its host.
    #[serde(rename = "accepted")]
    pub accepted_at: Timestamp,
    /// The event whose handler published this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<EventId>,
    /// The length of the chain of causes: 0 for an event from a client, and for one stored before this field existed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// The payload, byte for byte as it was received. The stores keep it apart from the attributes, unencoded.
    #[serde(skip)]
    pub data: Option<EventData>,
}

/// A payload or a result, and whether it is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventData {
    /// The bytes as they were received.
    pub bytes: Bytes,
    /// How a handler receives them.
    pub kind: DataKind,
}

/// How a handler receives data: as `text(string)` or as `binary(list<u8>)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

impl Event {
    /// An event with a new id, and without the optional attributes.
    pub fn new(event_type: EventType, source: impl Into<String>, accepted_at: Timestamp) -> Self {
        Self::with_id(EventId::new(), event_type, source, accepted_at)
    }

    /// An event that has its id already, without the optional attributes.
    pub fn with_id(id: EventId, event_type: EventType, source: impl Into<String>, accepted_at: Timestamp) -> Self {
        Self {
            id,
            event_type,
            source: source.into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: BTreeMap::new(),
            accepted_at,
            cause: None,
            depth: 0,
            data: None,
        }
    }
}

impl EventData {
    /// Wraps a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { bytes: Bytes::from(text.into()), kind: DataKind::Text }
    }

    /// Wraps any bytes.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), kind: DataKind::Binary }
    }

    /// The text; `None` for binary data, and for text that a store returned damaged.
    pub fn as_text(&self) -> Option<&str> {
        match self.kind {
            DataKind::Text => std::str::from_utf8(&self.bytes).ok(),
            DataKind::Binary => None,
        }
    }
}

/// Whether a number is 0 and so left out where it is written.
pub(crate) fn is_zero(number: &u32) -> bool {
    *number == 0
}
