//! Turns the entries of a lane's stream into deliveries.
//!
//! An entry of ours has two fields: `id` and `b`, the blob. Any other entry is a bad entry. It is never dispatched and never
//! blocks the entries after it. It is settled at once as failed, with the class `bad-entry` and its fields as data. An entry
//! of a newer format stays pending until a newer host reads it.

use std::sync::Arc;

use bytes::Bytes;
use redis::Value;

use super::client::StoreClient;
use super::codec::{self, CodecError};
use super::connection::{CallFailure, reply};
use super::hand_overs::HandOvers;
use super::settle::DeliverySettler;
use crate::broker::bad_entry::BadEntry;
use crate::broker::{Delivery, Error, Lane, Receipt, SettleRequest};
use crate::clock;
use crate::event::{EventId, EventRecord, FailureClass, Settlement, Timestamp};

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

/// The two numbers of the name of an entry.
///
/// # Errors
/// [`Error::BadCursor`] if the text is no such name.
pub(super) fn parse_name(name: &str) -> Result<(u64, u64), Error> {
    let number = |part: &str| part.parse().map_err(|_| Error::BadCursor);
    let (ms, sequence) = name.split_once('-').ok_or(Error::BadCursor)?;
    Ok((number(ms)?, number(sequence)?))
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

/// Decodes entries and hands them out.
pub(super) struct EntryDecoder {
    pub(super) client: Arc<StoreClient>,
    pub(super) hand_overs: Arc<HandOvers>,
    pub(super) settler: Arc<DeliverySettler>,
}

impl EntryDecoder {
    /// Decodes entries into deliveries, and settles or sets aside those that are no events.
    pub(super) async fn deliver(&self, mut entries: Vec<RawEntry>) -> Vec<Delivery> {
        // All become known before the first await, unreadable ones too. Otherwise recovery would take them for entries
        // whose reply was lost.
        entries.retain(|raw| {
            self.hand_overs.insert(&raw.lane, &raw.entry, raw.deliveries, raw.size_bytes(), raw.was_unseen)
        });
        let mut deliveries = Vec::with_capacity(entries.len());
        for raw in entries {
            match read_record(&raw.fields) {
                Ok(record) => deliveries.push(Delivery {
                    receipt: raw.receipt(record.event.id),
                    deliveries: raw.deliveries,
                    record,
                }),
                Err(newer @ CodecError::Newer(_)) => {
                    self.hand_overs.mark_unreadable(&raw.lane, &raw.entry);
                    self.uncount_delivery(&raw).await;
                    self.client.troubles().warn("newer-entry", || {
                        format!("{newer}; it waits in lane {} for a host that can read it", raw.lane)
                    });
                }
                Err(CodecError::Damaged(why)) => self.fail_bad_entry(raw, &why).await,
            }
        }
        deliveries
    }

    /// Lowers the delivery count of an entry that no handler got. Otherwise each older host would bring the event nearer
    /// to its last attempt.
    async fn uncount_delivery(&self, raw: &RawEntry) {
        let client = &self.client;
        let call = client
            .script_call(&client.scripts.uncount)
            .lane_keys(&client.keys, [&raw.lane])
            .text(&client.consumer)
            .text(&raw.entry)
            .number(raw.deliveries);
        if let Err(failure) = client.call(&call).await {
            client
                .troubles()
                .warn("uncount", || format!("an unreadable entry counts one delivery too many: {}", failure.message));
        }
    }

    /// Settles a bad entry as failed, with its fields as data.
    async fn fail_bad_entry(&self, raw: RawEntry, why: &str) {
        let id = self.find_event_id(&raw).await;
        let bad = raw.bad_entry(id, why);
        bad.log();
        let Some(record) = bad.record(clock::now()) else { return };
        let settle = SettleRequest {
            receipt: raw.receipt(id),
            record,
            settlement: Settlement::Failed { class: FailureClass::BadEntry, reason: why.to_owned() },
            lane: raw.lane.clone(),
            publish: Vec::new(),
            state: None,
        };
        if let Err(error) = self.settler.settle_all(vec![settle]).await {
            // The entry stays pending, and the next takeover after the lease tries again.
            tracing::warn!(lane = %raw.lane, entry = raw.entry, "the bad entry could not be stored as failed: {error}");
        }
    }

    /// The id in the entry, if the index confirms it; otherwise a new id.
    async fn find_event_id(&self, raw: &RawEntry) -> EventId {
        let field = raw.fields.iter().find(|(name, _)| name == "id");
        let claimed: Option<EventId> =
            field.and_then(|(_, id)| std::str::from_utf8(id).ok()).and_then(|id| id.parse().ok());
        let Some(id) = claimed else { return EventId::new() };
        let mut command = redis::cmd("HGET");
        command.arg(self.client.keys.index().as_ref()).arg(id.to_string());
        let place = self.client.link.command(&command).await.and_then(reply::bytes).ok().flatten().unwrap_or_default();
        if place.starts_with(format!("q|{}|{}|", raw.lane, raw.entry).as_bytes()) { id } else { EventId::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::redis::codec::RecordVersion;
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
        let blob = codec::encode(&bad, RecordVersion::Binary).unwrap();
        let fields = |id: String| [(Bytes::from("id"), Bytes::from(id)), (Bytes::from("b"), blob.clone())];
        assert_eq!(read_record(&fields(bad.event.id.to_string())), Ok(bad));
        assert!(read_record(&fields(EventId::new().to_string())).is_err());
    }
}
