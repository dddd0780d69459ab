//! What must hold for any bytes in the place of an entry: they are decoded or refused with a message, never lost, and
//! never cause a panic.
//!
//! The fuzzing targets and their test in the harness call it. Each function fails by panicking.

use bytes::Bytes;

use crate::broker::Lane;
use crate::broker::redis::codec::{self, CodecError, RecordVersion};
use crate::broker::redis::entry::{RawEntry, read_record};
use crate::event::{EventId, EventRecord, Timestamp};

/// Separates fields in an input.
const SEPARATOR: u8 = 0xff;

/// Decodes the input as a blob, as the head of a blob of each version, and as foreign fields.
///
/// # Panics
/// A property does not hold.
pub fn check_entry(input: &[u8]) {
    check_blob(&Bytes::copy_from_slice(input));
    let (head, tail) = split_at_separator(input);
    let mut json = vec![1];
    json.extend(u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
    json.extend_from_slice(head);
    for framed in [json, codec::binary::frame(head)] {
        check_blob(&Bytes::from([&framed, tail].concat()));
    }
    check_foreign(input);
}

/// Encodes and decodes a record.
///
/// # Panics
/// The record has changed.
pub fn check_round_trip(record: &EventRecord) {
    RecordVersion::ALL.into_iter().for_each(|version| comes_back(record, version));
}

fn comes_back(record: &EventRecord, version: RecordVersion) {
    let blob = codec::encode(record, version).expect("a record can be encoded");
    assert_eq!(codec::decode(&blob).as_ref(), Ok(record));
    let fields = own_fields(record.event.id, blob);
    assert_eq!(read_record(&fields).as_ref(), Ok(record));
}

fn check_blob(blob: &Bytes) {
    match codec::decode(blob) {
        Ok(record) => {
            let payload = record.event.data.as_ref().map(|data| data.bytes.clone()).unwrap_or_default();
            let result = record.end.as_ref().and_then(|end| end.result.as_ref()).map(|data| data.bytes.clone());
            let mut tail = payload.to_vec();
            tail.extend_from_slice(&result.unwrap_or_default());
            assert!(blob.ends_with(&tail), "payload and result are the last bytes, unchanged");
            // JSON rounds some of the durations that a binary head can hold.
            let is_json = blob.starts_with(&[RecordVersion::Json.number()]);
            let versions = if is_json { &RecordVersion::ALL[..] } else { &[RecordVersion::Binary] };
            versions.iter().for_each(|version| comes_back(&record, *version));
        }
        Err(CodecError::Newer(_)) => assert!(blob.first().is_some_and(|version| (2..=8).contains(version))),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = read_record(&own_fields(EventId::new(), blob.clone()));
}

/// Foreign fields become a failed event that holds all of them.
fn check_foreign(input: &[u8]) {
    let parts: Vec<Bytes> = input.split(|byte| *byte == SEPARATOR).map(Bytes::copy_from_slice).collect();
    let fields: Vec<(Bytes, Bytes)> =
        parts.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap_or_default())).collect();
    if read_record(&fields).is_ok() {
        return;
    }
    let (lane, entry) = (Lane::unrouted(), "1795446245007-3".into());
    let raw = RawEntry { lane, entry, deliveries: 1, was_unseen: false, fields };
    let now = Timestamp::from_unix_ms(1_795_446_245_007);
    let record = raw.bad_entry(EventId::new(), "why").record(now).expect("any content can be stored as failed");
    let data = record.event.data.as_ref().expect("its content is kept");
    match data.as_text() {
        Some(json) => {
            let pairs: Vec<[String; 2]> = serde_json::from_str(json).expect("text is kept as an array of pairs");
            let same = pairs.iter().map(|[name, value]| (name.as_bytes(), value.as_bytes()));
            assert!(same.eq(raw.fields.iter().map(|(name, value)| (&name[..], &value[..]))), "{json}");
        }
        None => {
            let all: Vec<u8> = raw.fields.iter().flat_map(|(name, value)| name.iter().chain(value)).copied().collect();
            assert_eq!(data.bytes, all);
        }
    }
    check_round_trip(&record);
}

fn own_fields(id: EventId, blob: Bytes) -> [(Bytes, Bytes); 2] {
    [(Bytes::from_static(b"id"), Bytes::from(id.to_string())), (Bytes::from_static(b"b"), blob)]
}

fn split_at_separator(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == SEPARATOR) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}
