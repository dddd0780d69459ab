//! What must hold of any bytes that stand where an entry should: read or refused with words, never lost, never a panic.
//!
//! Called by the fuzzing targets and by their test in the harness; each function fails by panicking.

use bytes::Bytes;

use super::codec::{self, DecodeError};
use super::entry::{RawEntry, bad_entry, read_record};
use crate::broker::Lane;
use crate::event::{EventId, EventRecord, Timestamp};

/// What separates fields where an input is cut into them.
const SEPARATOR: u8 = 0xff;

/// Reads the input as a whole entry of ours, as the header of one, and as fields that somebody else wrote.
///
/// # Panics
/// Something that must hold does not.
pub fn entry(input: &[u8]) {
    blob(&Bytes::copy_from_slice(input));
    let (header, tail) = at_separator(input);
    let mut framed = vec![1];
    framed.extend(u32::try_from(header.len()).unwrap_or(u32::MAX).to_le_bytes());
    framed.extend_from_slice(header);
    framed.extend_from_slice(tail);
    blob(&Bytes::from(framed));
    foreign(input);
}

/// Whether a record is the same after it was written and read.
///
/// # Panics
/// It is not.
pub fn comes_back(record: &EventRecord) {
    let blob = codec::encode(record).expect("a record can be written");
    assert_eq!(codec::decode(&blob).as_ref(), Ok(record));
    let fields = ours(record.event.id, blob);
    assert_eq!(read_record(&fields).as_ref(), Ok(record));
}

fn blob(blob: &Bytes) {
    match codec::decode(blob) {
        Ok(record) => {
            let payload = record.event.data.as_ref().map(|data| data.bytes.clone()).unwrap_or_default();
            let result = record.end.as_ref().and_then(|end| end.result.as_ref()).map(|data| data.bytes.clone());
            let mut tail = payload.to_vec();
            tail.extend_from_slice(&result.unwrap_or_default());
            assert!(blob.ends_with(&tail), "payload and result are the last bytes as they stood there");
            comes_back(&record);
        }
        Err(DecodeError::Newer(version)) => assert_eq!(Some(&version), blob.first()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = read_record(&ours(EventId::new(), blob.clone()));
}

/// Fields that are not ours become a failed event that holds all of them.
fn foreign(input: &[u8]) {
    let parts: Vec<Bytes> = input.split(|byte| *byte == SEPARATOR).map(Bytes::copy_from_slice).collect();
    let fields: Vec<(Bytes, Bytes)> =
        parts.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap_or_default())).collect();
    if read_record(&fields).is_ok() {
        return;
    }
    let (lane, entry) = (Lane::unrouted(), "1795446245007-3".into());
    let raw = RawEntry { lane, entry, deliveries: 1, was_unseen: false, fields };
    let now = Timestamp::from_unix_ms(1_795_446_245_007);
    let record = bad_entry(EventId::new(), &raw, "why").record(now).expect("whatever it holds can be put aside");
    let data = record.event.data.as_ref().expect("what it holds is kept");
    match data.as_text() {
        Some(json) => {
            let kept: Vec<[String; 2]> = serde_json::from_str(json).expect("text is kept as an array of pairs");
            let same = kept.iter().map(|[name, value]| (name.as_bytes(), value.as_bytes()));
            assert!(same.eq(raw.fields.iter().map(|(name, value)| (&name[..], &value[..]))), "{json}");
        }
        None => {
            let all: Vec<u8> = raw.fields.iter().flat_map(|(name, value)| name.iter().chain(value)).copied().collect();
            assert_eq!(data.bytes, all);
        }
    }
    comes_back(&record);
}

fn ours(id: EventId, blob: Bytes) -> [(Bytes, Bytes); 2] {
    [(Bytes::from_static(b"id"), Bytes::from(id.to_string())), (Bytes::from_static(b"b"), blob)]
}

fn at_separator(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == SEPARATOR) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}
