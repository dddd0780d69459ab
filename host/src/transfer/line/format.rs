//! The shapes of the lines, as serde reads and writes them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::payload::LinePayload;
use crate::event::{AttemptRecord, EventId, EventType, FailureClass, Timestamp, is_zero};
use crate::transfer::TransferCounts;

/// The format that the first line names.
pub(super) const FORMAT: &str = "eventstream-export";
/// The version that exports are written in, and the newest that is read.
pub(super) const VERSION: u32 = 2;

/// The counts in the last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::transfer) struct LineCounts {
    pub(in crate::transfer) keys: u64,
    pub(in crate::transfer) events: u64,
    pub(in crate::transfer) failed: u64,
    /// Missing in version 1.
    #[serde(default)]
    pub(in crate::transfer) state: u64,
}

impl LineCounts {
    pub(in crate::transfer) fn of(moved: &TransferCounts) -> Self {
        Self { keys: moved.keys, events: moved.events, failed: moved.failed, state: moved.state }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LineType {
    Header,
    IdempotencyKey,
    Event,
    Failed,
    State,
    #[serde(rename = "end")]
    Footer,
}

/// Reads only the kind of a line.
#[derive(Deserialize)]
pub(super) struct AnyLine {
    pub(super) kind: LineType,
}

/// The first line. It may have unknown members, so that a newer version is recognized as such.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeaderLine<'a> {
    pub(super) kind: LineType,
    #[serde(borrow)]
    pub(super) format: Cow<'a, str>,
    pub(super) version: u32,
    pub(super) exported_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct KeyLine<'a> {
    pub(super) kind: LineType,
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) fingerprint: Cow<'a, str>,
    pub(super) event_id: EventId,
    pub(super) until: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateLine<'a> {
    pub(super) kind: LineType,
    #[serde(borrow)]
    pub(super) plugin: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) value: LinePayload<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EventLine<'a> {
    pub(super) kind: LineType,
    pub(super) id: EventId,
    #[serde(rename = "type")]
    pub(super) event_type: EventType,
    #[serde(borrow)]
    pub(super) source: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) time: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) data_content_type: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) data_schema: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub(super) extensions: Cow<'a, BTreeMap<String, String>>,
    pub(super) accepted_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<EventId>,
    /// Left out when 0; older exports do not have it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) depth: u32,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) payload: Option<LinePayload<'a>>,
    /// The lane of a waiting event.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) lane: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due_at: Option<Timestamp>,
    pub(super) attempts_made: u32,
    pub(super) failures: u32,
    pub(super) replays: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) deferrals: u32,
    pub(super) attempts: Cow<'a, [AttemptRecord]>,
    /// The end of a failed event.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<EndLine<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndLine<'a> {
    pub(super) at: Timestamp,
    pub(super) class: FailureClass,
    #[serde(borrow)]
    pub(super) reason: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<LinePayload<'a>>,
    #[serde(default, skip_serializing_if = "<[EventId]>::is_empty")]
    pub(super) children: Cow<'a, [EventId]>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FooterLine {
    pub(super) kind: LineType,
    pub(super) holds: LineCounts,
}

fn is_empty(extensions: &BTreeMap<String, String>) -> bool {
    extensions.is_empty()
}
