//! Version 1 of the format: a header of JSON, with its size before it as four bytes, little-endian.
//!
//! It is written only while a host serves that reads nothing later.

use serde::{Deserialize, Serialize};

use super::head::{CodecError, DataSize, RecordHead};
use crate::event::{AttemptRecord, Discard, Event, EventEnd, EventId, EventRecord, FailureClass, Timestamp, is_zero};

/// The version byte.
pub(super) const VERSION: u8 = 1;
/// The size of the version byte and the header size.
const PREFIX_BYTES: usize = 5;

#[derive(Serialize)]
struct HeaderToWrite<'a> {
    event: &'a Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<DataSize>,
    made: u32,
    failures: u32,
    replays: u32,
    #[serde(skip_serializing_if = "is_zero")]
    deferrals: u32,
    attempts: &'a [AttemptRecord],
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<EndHeader>,
}

#[derive(Deserialize)]
struct HeaderAsRead {
    event: Event,
    data: Option<DataSize>,
    made: u32,
    failures: u32,
    replays: u32,
    #[serde(default)]
    deferrals: u32,
    attempts: Vec<AttemptRecord>,
    end: Option<EndHeader>,
}

#[derive(Serialize, Deserialize)]
struct EndHeader {
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<FailureClass>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<DataSize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    children: Vec<EventId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    discarded: Option<Discard>,
}

/// The version byte, the size and the header.
///
/// # Errors
/// The record has a number that JSON cannot hold, or a header over 4 GiB.
pub(super) fn encode_head(record: &EventRecord) -> Result<Vec<u8>, CodecError> {
    let EventRecord { event, attempts_made, failures, replays, deferrals, attempts, end } = record;
    let header = HeaderToWrite {
        event,
        data: event.data.as_ref().map(DataSize::of),
        made: *attempts_made,
        failures: *failures,
        replays: *replays,
        deferrals: *deferrals,
        attempts,
        end: end.as_ref().map(|EventEnd { at, failure, result, children, discarded }| EndHeader {
            at: *at,
            class: failure.as_ref().map(|(class, _)| *class),
            reason: failure.as_ref().map(|(_, reason)| reason.clone()),
            result: result.as_ref().map(DataSize::of),
            children: children.clone(),
            discarded: discarded.clone(),
        }),
    };
    let mut head = vec![VERSION, 0, 0, 0, 0];
    serde_json::to_writer(&mut head, &header).map_err(|error| CodecError::Damaged(error.to_string()))?;
    let size_bytes = u32::try_from(head.len() - PREFIX_BYTES).map_err(|_| CodecError::too_large())?;
    head[1..PREFIX_BYTES].copy_from_slice(&size_bytes.to_le_bytes());
    Ok(head)
}

/// Where the header ends.
pub(super) fn head_end(blob: &[u8]) -> Result<usize, CodecError> {
    let size = blob.get(1..PREFIX_BYTES).and_then(|size| size.try_into().ok()).ok_or_else(CodecError::cut_short)?;
    let size_bytes = usize::try_from(u32::from_le_bytes(size)).map_err(|_| CodecError::too_large())?;
    size_bytes.checked_add(PREFIX_BYTES).ok_or_else(CodecError::too_large)
}

/// Decodes what [`encode_head`] wrote.
pub(super) fn decode_head(head: &[u8]) -> Result<RecordHead, CodecError> {
    let header = head.get(PREFIX_BYTES..).unwrap_or_default();
    let HeaderAsRead { event, data, made, failures, replays, deferrals, attempts, end } =
        serde_json::from_slice(header).map_err(|error| CodecError::Damaged(error.to_string()))?;
    Ok(RecordHead {
        event,
        data,
        attempts_made: made,
        failures,
        replays,
        deferrals,
        attempts,
        result: end.as_ref().and_then(|end| end.result),
        end: end.map(|EndHeader { at, class, reason, result: _, children, discarded }| EventEnd {
            at,
            failure: class.map(|class| (class, reason.unwrap_or_default())),
            result: None,
            children,
            discarded,
        }),
    })
}
