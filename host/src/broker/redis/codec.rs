//! Encodes a record into one opaque value, the blob, and decodes it.
//!
//! A blob is a version byte, the size of a JSON header as four bytes (little-endian), the header, the payload and the
//! result. Payload and result are stored as they are, and decoding slices them out without a copy. Decoding any bytes
//! ends with a record or an error. A newer version is a different error than damage, because during an upgrade an older
//! host must leave such entries to the newer one.

mod head;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::broker::Error;
use crate::event::{
    AttemptRecord, DataKind, Discard, Event, EventData, EventEnd, EventId, EventRecord, FailureClass, Timestamp,
    is_zero,
};

/// The version that this host writes.
const VERSION: u8 = 1;
/// Version bytes above this one are not ours.
const LAST_VERSION: u8 = 8;
/// The size of the version byte and the header size.
const PREFIX_BYTES: usize = 5;

/// Why a blob is not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    /// A newer host wrote it, and only a newer host can read it.
    #[error("the entry has format version {0}, and this host reads up to {VERSION}")]
    Newer(u8),
    /// It is damaged, or another program wrote it.
    #[error("the entry is not an event: {0}")]
    Damaged(String),
}

impl From<CodecError> for Error {
    fn from(error: CodecError) -> Self {
        Self::Misconfigured(error.to_string())
    }
}

#[derive(Serialize)]
struct HeaderToWrite<'a> {
    event: &'a Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<HeaderTail>,
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
    data: Option<HeaderTail>,
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
    result: Option<HeaderTail>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    children: Vec<EventId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    discarded: Option<Discard>,
}

/// The kind and size of bytes that follow the header.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct HeaderTail {
    kind: DataKind,
    size_bytes: usize,
}

/// Encodes a record.
///
/// # Errors
/// The record has a number that JSON cannot hold, or a header over 4 GiB. Retrying cannot help.
pub(super) fn encode(record: &EventRecord) -> Result<Bytes, CodecError> {
    let result = record.end.as_ref().and_then(|end| end.result.as_ref());
    let header = match head::encode_new(record) {
        Some(header) => header.into_bytes(),
        None => encode_header(record)?,
    };
    let header_size = u32::try_from(header.len()).map_err(|_| CodecError::Damaged("it is too large".into()))?;
    let tails = [record.event.data.as_ref(), result];
    let tails_bytes: usize = tails.iter().flatten().map(|data| data.bytes.len()).sum();
    let mut blob = BytesMut::with_capacity(PREFIX_BYTES + header.len() + tails_bytes);
    blob.put_u8(VERSION);
    blob.put_u32_le(header_size);
    blob.put_slice(&header);
    for data in tails.into_iter().flatten() {
        blob.put_slice(&data.bytes);
    }
    Ok(blob.freeze())
}

fn encode_header(record: &EventRecord) -> Result<Vec<u8>, CodecError> {
    let EventRecord { event, attempts_made, failures, replays, deferrals, attempts, end } = record;
    let header = HeaderToWrite {
        event,
        data: event.data.as_ref().map(describe_tail),
        made: *attempts_made,
        failures: *failures,
        replays: *replays,
        deferrals: *deferrals,
        attempts,
        end: end.as_ref().map(|EventEnd { at, failure, result, children, discarded }| EndHeader {
            at: *at,
            class: failure.as_ref().map(|(class, _)| *class),
            reason: failure.as_ref().map(|(_, reason)| reason.clone()),
            result: result.as_ref().map(describe_tail),
            children: children.clone(),
            discarded: discarded.clone(),
        }),
    };
    serde_json::to_vec(&header).map_err(|error| CodecError::Damaged(error.to_string()))
}

/// Decodes a record. Payload and result are slices of the blob.
///
/// # Errors
/// See [`CodecError`].
pub(super) fn decode(blob: &Bytes) -> Result<EventRecord, CodecError> {
    let (header, mut rest) = read_header(blob)?;
    let data = read_tail(&mut rest, header.data)?;
    let result = read_tail(&mut rest, header.end.as_ref().and_then(|end| end.result))?;
    if !rest.is_empty() {
        return Err(CodecError::Damaged("bytes follow its end".into()));
    }
    Ok(header.into_record(data, result))
}

/// Decodes a record without payload and result, which may be cut off.
///
/// # Errors
/// See [`CodecError`].
pub(super) fn decode_head(blob: &Bytes) -> Result<EventRecord, CodecError> {
    Ok(read_header(blob)?.0.into_record(None, None))
}

/// The header of a blob and the bytes after it.
fn read_header(blob: &Bytes) -> Result<(HeaderAsRead, Bytes), CodecError> {
    match blob.first() {
        None => return Err(CodecError::Damaged("it is empty".into())),
        Some(&version) if (VERSION + 1..=LAST_VERSION).contains(&version) => return Err(CodecError::Newer(version)),
        Some(&VERSION) => {}
        Some(_) => return Err(CodecError::Damaged("it begins with no version".into())),
    }
    let mut rest = blob.slice(1..);
    let header_size = u32::from_le_bytes(
        take(&mut rest, 4)?.as_ref().try_into().map_err(|_| CodecError::Damaged("it is cut short".into()))?,
    );
    let header_size = usize::try_from(header_size).map_err(|_| CodecError::Damaged("it is too large".into()))?;
    let header = take(&mut rest, header_size)?;
    let header = serde_json::from_slice(&header).map_err(|error| CodecError::Damaged(error.to_string()))?;
    Ok((header, rest))
}

impl HeaderAsRead {
    fn into_record(self, data: Option<EventData>, result: Option<EventData>) -> EventRecord {
        let mut event = self.event;
        event.data = data;
        let end = self.end.map(|end| EventEnd {
            at: end.at,
            failure: end.class.map(|class| (class, end.reason.unwrap_or_default())),
            result,
            children: end.children,
            discarded: end.discarded,
        });
        EventRecord {
            event: event.into(),
            attempts_made: self.made,
            failures: self.failures,
            replays: self.replays,
            deferrals: self.deferrals,
            attempts: self.attempts,
            end,
        }
    }
}

fn describe_tail(data: &EventData) -> HeaderTail {
    HeaderTail { kind: data.kind, size_bytes: data.bytes.len() }
}

fn read_tail(rest: &mut Bytes, tail: Option<HeaderTail>) -> Result<Option<EventData>, CodecError> {
    tail.map(|tail| Ok(EventData { bytes: take(rest, tail.size_bytes)?, kind: tail.kind })).transpose()
}

fn take(rest: &mut Bytes, size_bytes: usize) -> Result<Bytes, CodecError> {
    if rest.len() < size_bytes {
        return Err(CodecError::Damaged("it is cut short".into()));
    }
    Ok(rest.split_to(size_bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record() -> EventRecord {
        let event = Event {
            id: EventId::new(),
            event_type: "order.paid".parse().unwrap(),
            source: "/shop".into(),
            subject: Some("order 7".into()),
            time: None,
            data_content_type: Some("application/json".into()),
            data_schema: None,
            extensions: BTreeMap::from([("partitionkey".into(), "a|b\n".into())]),
            accepted: Timestamp::from_unix_ms(1_795_446_245_007),
            cause: Some(EventId::new()),
            depth: 7,
            data: Some(EventData::text("{\"n\": 12345678901234567890.10,\"n\":1}")),
        };
        let attempt = AttemptRecord {
            attempt: 1,
            replay: 0,
            started_at: event.accepted,
            duration_ms: 1.25,
            class: Some(FailureClass::Trap),
            error: Some("unreachable".into()),
            backtrace: None,
            retry_in_ms: Some(900),
            consumer: "host-1".into(),
            plugin: Some("orders".into()),
            digest: None,
            stderr: None,
            log: Vec::new(),
            log_lines_dropped: 0,
        };
        let end = EventEnd {
            at: event.accepted.plus_ms(2_000),
            failure: None,
            result: Some(EventData::binary(vec![0, 255, 10, 13, 124])),
            children: vec![EventId::new(), EventId::new()],
            discarded: None,
        };
        EventRecord {
            attempts_made: 2,
            failures: 1,
            replays: 3,
            deferrals: 4,
            attempts: vec![attempt],
            end: Some(end),
            event: event.into(),
        }
    }

    #[test]
    fn records_survive_encoding() {
        let full = record();
        let mut failed = record();
        failed.end = Some(EventEnd {
            at: Timestamp::from_unix_ms(1),
            failure: Some((FailureClass::Reject, "no".into())),
            result: None,
            children: Vec::new(),
            discarded: Some(Discard { at: Timestamp::from_unix_ms(2), reason: "tested".into() }),
        });
        let with = |data| EventRecord::new(Event { data, ..(*record().event).clone() });
        let (bare, empty) = (with(None), with(Some(EventData::binary(Vec::new()))));
        for record in [full, failed, bare, empty] {
            assert_eq!(decode(&encode(&record).unwrap()).unwrap(), record);
        }
    }

    #[test]
    fn the_fast_header_of_a_new_event_equals_the_general_one() {
        let mut full = (*record().event).clone();
        full.source = "\"/shop\\é\u{1}\n\u{7f}".into();
        full.time = Some("2026-11-23T15:04:05Z".into());
        full.data_schema = Some("x:y".into());
        full.extensions.insert("b".into(), String::new());
        let bare = Event {
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: BTreeMap::new(),
            cause: None,
            depth: 0,
            data: None,
            ..full.clone()
        };
        let binary = Event { data: Some(EventData::binary(vec![0])), ..bare.clone() };
        for record in [full, bare, binary].map(EventRecord::new) {
            let written = head::encode_new(&record).unwrap();
            assert_eq!(written, String::from_utf8(encode_header(&record).unwrap()).unwrap());
        }
        assert_eq!(head::encode_new(&record()), None);
    }

    #[test]
    fn a_head_is_decoded_without_payload_and_result() {
        let whole = record();
        let blob = encode(&whole).unwrap();
        let header_size = u32::from_le_bytes(blob[1..5].try_into().unwrap()) as usize;
        let head = decode_head(&blob.slice(..PREFIX_BYTES + header_size)).unwrap();
        assert_eq!((head.event.id, &head.event.event_type), (whole.event.id, &whole.event.event_type));
        assert_eq!((head.event.data.as_ref(), head.end.unwrap().result), (None, None));
        assert_eq!(head.attempts, whole.attempts);
        assert!(decode_head(&blob.slice(..PREFIX_BYTES + header_size - 1)).is_err());
    }

    #[test]
    fn payloads_are_slices_of_the_blob() {
        let blob = encode(&record()).unwrap();
        let payload = decode(&blob).unwrap().event.data.clone().unwrap().bytes;
        let address = payload.as_ptr() as usize;
        let start = blob.as_ptr() as usize;
        assert!(address > start && address < start + blob.len());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let blob = encode(&record()).unwrap();
        for size_bytes in 0..blob.len() {
            assert!(matches!(decode(&blob.slice(..size_bytes)), Err(CodecError::Damaged(_))), "{size_bytes} bytes");
        }
        let mut longer = blob.to_vec();
        longer.push(0);
        assert!(matches!(decode(&longer.into()), Err(CodecError::Damaged(_))));
    }

    #[test]
    fn damage_never_panics() {
        let blob = encode(&record()).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut damaged = blob.to_vec();
            for _ in 0..random.usize(1..6) {
                let place = random.usize(..damaged.len());
                damaged[place] = random.u8(..);
            }
            let _ = decode(&damaged.into());
            let garbage: Vec<u8> = (0..random.usize(..64)).map(|_| random.u8(..)).collect();
            let _ = decode(&garbage.into());
        }
    }

    #[test]
    fn newer_versions_are_not_damage() {
        let mut blob = encode(&record()).unwrap().to_vec();
        blob[0] = VERSION + 1;
        assert_eq!(decode(&blob.into()), Err(CodecError::Newer(2)));
        for foreign in ["{\"type\":\"x\"}", "hello", "\u{0}"] {
            assert!(matches!(decode(&Bytes::from(foreign)), Err(CodecError::Damaged(_))), "{foreign:?}");
        }
    }
}
