//! Entries of a lane's stream before they are decoded.
//!
//! An entry of ours has two fields: `id` and `b`, the blob. Any other entry is a bad entry.

use bytes::Bytes;
use redis::Value;

use super::codec::{self, CodecError};
use super::connection::{CallFailure, reply};
use crate::broker::bad_entry::BadEntry;
use crate::broker::{Lane, Receipt};
use crate::event::{EventId, EventRecord, Timestamp};

/// An entry as Redis handed it out.
#[derive(Clone, Debug)]
pub(super) struct RawEntry {
    pub(super) lane: Lane,
    pub(super) entry: String,
    pub(super) deliveries: u32,
    /// It was pending for this consumer before, from a reply that did not arrive.
    pub(super) was_unseen: bool,
    pub(super) fields: Vec<(Bytes, Bytes)>,
}

impl RawEntry {
    /// Reads an entry that was delivered for the first time.
    pub(super) fn read(lane: &Lane, entry: Value, fields: Value) -> Result<Self, CallFailure> {
        let (entry, fields) = (reply::text(entry)?, read_fields(fields)?);
        Ok(Self { lane: lane.clone(), entry, deliveries: 1, was_unseen: false, fields })
    }

    /// The size of its blob.
    pub(super) fn size_bytes(&self) -> u64 {
        self.fields.iter().find(|(name, _)| name == "b").map_or(0, |(_, blob)| blob.len() as u64)
    }

    /// The receipt for its delivery as this event.
    pub(super) fn receipt(&self, event_id: EventId) -> Receipt {
        Receipt { event_id, lane: self.lane.clone(), entry: self.entry.clone(), deliveries: self.deliveries }
    }

    /// Describes it as a bad entry. The name of an entry begins with the time at which it was added.
    pub(super) fn bad_entry<'a>(&'a self, id: EventId, why: &'a str) -> BadEntry<'a> {
        let added_ms = self.entry.split('-').next().and_then(|ms| ms.parse().ok());
        let added = added_ms.map(Timestamp::from_unix_ms);
        BadEntry { id, lane: &self.lane, entry: &self.entry, added, fields: &self.fields, why }
    }
}

/// Reads the fields of an entry.
pub(super) fn read_fields(value: Value) -> Result<Vec<(Bytes, Bytes)>, CallFailure> {
    let pairs = reply::pairs(value)?;
    let read = |value| Ok(reply::bytes(value)?.unwrap_or_default());
    pairs.into_iter().map(|(name, value)| Ok((read(name)?, read(value)?))).collect()
}

/// Decodes the record in the fields of an entry.
pub(super) fn read_record(fields: &[(Bytes, Bytes)]) -> Result<EventRecord, CodecError> {
    decode_fields(fields, codec::decode)
}

/// Decodes the record without payload and result, which may be cut off.
pub(super) fn read_head(fields: &[(Bytes, Bytes)]) -> Result<EventRecord, CodecError> {
    decode_fields(fields, codec::decode_head)
}

fn decode_fields(
    fields: &[(Bytes, Bytes)],
    decode: impl FnOnce(&Bytes) -> Result<EventRecord, CodecError>,
) -> Result<EventRecord, CodecError> {
    let [(id_name, id), (blob_name, blob)] = fields else {
        return Err(CodecError::Damaged(format!("it has {} fields", fields.len())));
    };
    if id_name != "id" || blob_name != "b" {
        return Err(CodecError::Damaged("its fields are not ours".into()));
    }
    let record = decode(blob)?;
    if *id != record.event.id.to_string() {
        return Err(CodecError::Damaged("it has two ids".into()));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn raw(fields: &[(&'static [u8], &'static [u8])]) -> RawEntry {
        let fields = fields.iter().map(|(name, value)| (Bytes::from_static(name), Bytes::from_static(value))).collect();
        RawEntry { lane: Lane::unrouted(), entry: "1795446245007-3".into(), deliveries: 1, was_unseen: false, fields }
    }

    #[test]
    fn foreign_fields_are_no_record() {
        for fields in [
            &[][..],
            &[(&b"hello"[..], &b"world"[..])],
            &[(b"id", b"x"), (b"b", b"\x01")],
            &[(b"b", b"x"), (b"id", b"y")],
            &[(b"id", b"x"), (b"b", b""), (b"b", b"")],
        ] {
            assert!(matches!(read_record(&raw(fields).fields), Err(CodecError::Damaged(_))), "{fields:?}");
        }
    }

    #[test]
    fn an_entry_with_the_id_of_another_event_is_no_record() {
        let mut bad = raw(&[]).bad_entry(EventId::new(), "why").record(clock::now()).unwrap();
        bad.end = None;
        let blob = codec::encode(&bad).unwrap();
        let fields = |id: String| [(Bytes::from("id"), Bytes::from(id)), (Bytes::from("b"), blob.clone())];
        assert_eq!(read_record(&fields(bad.event.id.to_string())), Ok(bad));
        assert!(read_record(&fields(EventId::new().to_string())).is_err());
    }
}
