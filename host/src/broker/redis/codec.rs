//! Encodes a record into one opaque value, the blob, and decodes it.
//!
//! A blob is a head, the payload and the result. The first byte is the version of the head: 1 in `codec/json.rs`, 3 in
//! `codec/binary.rs`; no host wrote version 2. Payload and result are stored as they are, and decoding slices them out
//! without a copy. Decoding any bytes ends with a record or an error. What only a later host can read is another error than
//! damage: during an upgrade, an older host must leave it to a newer one.

mod attempt;
pub(super) mod binary;
pub(super) mod ending;
mod fields;
mod head;
mod json;

use bytes::Bytes;

pub(super) use self::head::CodecError;
use self::head::{DataSize, RecordHead};
use crate::event::{EventData, EventRecord};

/// Version bytes above this one are not ours.
const LAST_VERSION: u8 = 8;

/// How a record is written. A host reads all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordVersion {
    /// For hosts that read nothing later.
    Json,
    /// Once every host reads it.
    Binary,
}

impl RecordVersion {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Json, Self::Binary];

    /// The first byte of its blobs.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Json => json::VERSION,
            Self::Binary => binary::VERSION,
        }
    }

    fn encode_head(self, record: &EventRecord) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Json => json::encode_head(record),
            Self::Binary => binary::encode_head(record),
        }
    }

    fn head_end(self, blob: &[u8]) -> Result<usize, CodecError> {
        match self {
            Self::Json => json::head_end(blob),
            Self::Binary => binary::head_end(blob),
        }
    }

    fn decode_head(self, head: &[u8]) -> Result<RecordHead, CodecError> {
        match self {
            Self::Json => json::decode_head(head),
            Self::Binary => binary::decode_head(head),
        }
    }
}

/// Encodes a record.
///
/// # Errors
/// The record has a number that the version cannot hold, or a head over 4 GiB. Retrying cannot help.
pub(super) fn encode(record: &EventRecord, version: RecordVersion) -> Result<Bytes, CodecError> {
    let mut blob = version.encode_head(record)?;
    let result = record.end.as_ref().and_then(|end| end.result.as_ref());
    let tails = [record.event.data.as_ref(), result];
    blob.reserve_exact(tails.iter().flatten().map(|data| data.bytes.len()).sum());
    tails.into_iter().flatten().for_each(|data| blob.extend_from_slice(&data.bytes));
    Ok(blob.into())
}

/// Decodes a record. Payload and result are slices of the blob.
///
/// # Errors
/// See [`CodecError`].
pub(super) fn decode(blob: &Bytes) -> Result<EventRecord, CodecError> {
    let (head, mut rest) = read_head(blob)?;
    let data = read_tail(&mut rest, head.data)?;
    let result = read_tail(&mut rest, head.result)?;
    if !rest.is_empty() {
        return Err(CodecError::Damaged("bytes follow its end".into()));
    }
    Ok(head.into_record(data, result))
}

/// Decodes a record without payload and result, which may be cut off.
///
/// # Errors
/// See [`CodecError`].
pub(super) fn decode_head(blob: &Bytes) -> Result<EventRecord, CodecError> {
    Ok(read_head(blob)?.0.into_record(None, None))
}

/// The head of a blob and the bytes after it.
fn read_head(blob: &Bytes) -> Result<(RecordHead, Bytes), CodecError> {
    let version = blob.first().copied().ok_or_else(|| CodecError::Damaged("it is empty".into()))?;
    let Some(known) = RecordVersion::ALL.into_iter().find(|known| known.number() == version) else {
        return Err(match version {
            1..=LAST_VERSION => CodecError::Newer(format!("its format has version {version}")),
            _ => CodecError::Damaged("it begins with no version".into()),
        });
    };
    let mut rest = blob.clone();
    let head_end = known.head_end(blob)?;
    let head = take(&mut rest, head_end)?;
    Ok((known.decode_head(&head)?, rest))
}

fn read_tail(rest: &mut Bytes, tail: Option<DataSize>) -> Result<Option<EventData>, CodecError> {
    tail.map(|tail| Ok(EventData { bytes: take(rest, tail.size_bytes)?, kind: tail.kind })).transpose()
}

fn take(rest: &mut Bytes, size_bytes: usize) -> Result<Bytes, CodecError> {
    if rest.len() < size_bytes {
        return Err(CodecError::cut_short());
    }
    Ok(rest.split_to(size_bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::event::{AttemptRecord, Discard, Event, EventEnd, EventId, FailureClass, Timestamp};

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
            accepted_at: Timestamp::from_unix_ms(1_795_446_245_007),
            cause: Some(EventId::new()),
            depth: 7,
            data: Some(EventData::text("{\"n\": 12345678901234567890.10,\"n\":1}")),
        };
        let attempt = AttemptRecord {
            attempt: 1,
            replay: 0,
            started_at: event.accepted_at,
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
            at: event.accepted_at.plus_ms(2_000),
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
            for version in RecordVersion::ALL {
                assert_eq!(decode(&encode(&record, version).unwrap()).unwrap(), record);
            }
        }
    }

    fn blobs() -> [Bytes; 2] {
        RecordVersion::ALL.map(|version| encode(&record(), version).unwrap())
    }

    #[test]
    fn a_head_is_decoded_without_payload_and_result() {
        let whole = record();
        for version in RecordVersion::ALL {
            let blob = encode(&whole, version).unwrap();
            let tails = whole.event.data.as_ref().unwrap().bytes.len() + 5;
            let head = decode_head(&blob.slice(..blob.len() - tails)).unwrap();
            assert_eq!((head.event.id, &head.event.event_type), (whole.event.id, &whole.event.event_type));
            assert_eq!((head.event.data.as_ref(), head.end.unwrap().result), (None, None));
            assert_eq!(head.attempts, whole.attempts);
            assert!(decode_head(&blob.slice(..blob.len() - tails - 1)).is_err());
        }
    }

    #[test]
    fn payloads_are_slices_of_the_blob() {
        for blob in blobs() {
            let payload = decode(&blob).unwrap().event.data.clone().unwrap().bytes;
            let (address, start) = (payload.as_ptr() as usize, blob.as_ptr() as usize);
            assert!(address > start && address < start + blob.len());
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        for blob in blobs() {
            for size_bytes in 0..blob.len() {
                assert!(matches!(decode(&blob.slice(..size_bytes)), Err(CodecError::Damaged(_))), "{size_bytes} bytes");
            }
            let longer = [&blob[..], &[0]].concat();
            assert!(matches!(decode(&longer.into()), Err(CodecError::Damaged(_))));
        }
    }

    #[test]
    fn damage_never_panics() {
        let mut random = fastrand::Rng::with_seed(7);
        for blob in blobs() {
            for _ in 0..20_000 {
                let mut damaged = blob.to_vec();
                for _ in 0..random.usize(1..6) {
                    let place = random.usize(..damaged.len());
                    damaged[place] = random.u8(..);
                }
                let _ = decode(&damaged.into());
                let mut garbage: Vec<u8> = (0..random.usize(1..64)).map(|_| random.u8(..)).collect();
                let _ = decode(&garbage.clone().into());
                garbage[0] = blob[0];
                let _ = decode(&garbage.into());
            }
        }
    }

    #[test]
    fn every_changed_byte_of_a_binary_head_is_found() {
        let blob = encode(&record(), RecordVersion::Binary).unwrap();
        let head_bytes = binary::head_end(&blob).unwrap();
        for (place, bit) in (1..head_bytes).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
            let mut damaged = blob.to_vec();
            damaged[place] ^= 1 << bit;
            assert!(matches!(decode(&damaged.into()), Err(CodecError::Damaged(_))), "bit {bit} of byte {place}");
        }
    }

    #[test]
    fn newer_versions_are_not_damage() {
        for version in [2, 4, LAST_VERSION] {
            let mut blob = encode(&record(), RecordVersion::Binary).unwrap().to_vec();
            blob[0] = version;
            assert!(matches!(decode(&blob.into()), Err(CodecError::Newer(_))), "{version}");
        }
        for foreign in ["{\"type\":\"x\"}", "hello", "\u{0}", "\u{9}"] {
            assert!(matches!(decode(&Bytes::from(foreign)), Err(CodecError::Damaged(_))), "{foreign:?}");
        }
    }
}
