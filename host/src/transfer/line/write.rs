//! Writes the lines of an export.

use std::borrow::Cow;

use serde::Serialize;

use super::format::{
    EndLine, EventLine, FORMAT, FooterLine, HeaderLine, KeyLine, LineCounts, LineType, StateLine, VERSION,
};
use super::payload::LinePayload;
use crate::broker::{ExportedEvent, ExportedKey, ExportedState, SnapshotItem};
use crate::event::{DataKind, EventData, EventRecord, Timestamp};

/// Writes the first line.
pub(in crate::transfer) fn write_header(now: Timestamp) -> Result<Vec<u8>, serde_json::Error> {
    to_line(&HeaderLine { kind: LineType::Header, format: FORMAT.into(), version: VERSION, exported_at: now })
}

/// Writes the line of a key, an event or a state key.
pub(in crate::transfer) fn write_item(exported: &SnapshotItem) -> Result<Vec<u8>, serde_json::Error> {
    match exported {
        SnapshotItem::Key(ExportedKey { idempotency, id, until }) => to_line(&KeyLine {
            kind: LineType::IdempotencyKey,
            key: to_hexadecimal(&idempotency.key).into(),
            fingerprint: to_hexadecimal(&idempotency.fingerprint).into(),
            event_id: *id,
            until: *until,
        }),
        SnapshotItem::Waiting(ExportedEvent { record, lane, due }) => {
            let line = event_line(LineType::Event, record);
            to_line(&EventLine { lane: Some(lane.as_str().into()), due_at: *due, ..line })
        }
        SnapshotItem::State(ExportedState { plugin, key, value, until }) => {
            let kind = if std::str::from_utf8(value).is_ok() { DataKind::Text } else { DataKind::Binary };
            let data = EventData { bytes: value.clone(), kind };
            let (plugin, key) = (Cow::Borrowed(plugin.as_str()), Cow::Borrowed(key.as_str()));
            to_line(&StateLine { kind: LineType::State, plugin, key, value: LinePayload::from(&data), until: *until })
        }
        SnapshotItem::Failed(record) => to_line(&event_line(LineType::Failed, record)),
    }
}

/// Writes the last line.
pub(in crate::transfer) fn write_end(holds: LineCounts) -> Result<Vec<u8>, serde_json::Error> {
    to_line(&FooterLine { kind: LineType::Footer, holds })
}

fn to_line(line: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn event_line(kind: LineType, record: &EventRecord) -> EventLine<'_> {
    let EventRecord { event, attempts_made, failures, replays, deferrals, attempts, end } = record;
    EventLine {
        kind,
        id: event.id,
        event_type: event.event_type.clone(),
        source: event.source.as_str().into(),
        subject: event.subject.as_deref().map(Cow::Borrowed),
        time: event.time.as_deref().map(Cow::Borrowed),
        data_content_type: event.data_content_type.as_deref().map(Cow::Borrowed),
        data_schema: event.data_schema.as_deref().map(Cow::Borrowed),
        extensions: Cow::Borrowed(&event.extensions),
        accepted_at: event.accepted_at,
        cause: event.cause,
        depth: event.depth,
        payload: event.data.as_ref().map(LinePayload::from),
        lane: None,
        due_at: None,
        attempts_made: *attempts_made,
        failures: *failures,
        replays: *replays,
        deferrals: *deferrals,
        attempts: Cow::Borrowed(attempts),
        end: end.as_ref().and_then(|end| {
            let (class, reason) = end.failure.as_ref()?;
            Some(EndLine {
                at: end.at,
                class: *class,
                reason: reason.as_str().into(),
                result: end.result.as_ref().map(LinePayload::from),
                children: Cow::Borrowed(&end.children),
            })
        }),
    }
}

fn to_hexadecimal(digest: &[u8; 32]) -> String {
    digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|n| char::from_digit(u32::from(n), 16)).collect()
}
