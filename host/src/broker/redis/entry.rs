//! Entries of a work stream, and how they become deliveries.
//!
//! An entry of ours has two fields, `id` and `b`. What cannot be read as an event is never dispatched and never blocks
//! what stands behind it: it is settled at once as failed with class `bad-entry`, its fields kept as data. What was
//! written by a newer version is left pending for a host that can read it.

use bytes::Bytes;
use redis::Value;

use super::codec::{self, DecodeError};
use super::core::RedisCore;
use super::fault::CallFailure;
use super::reply;
use crate::broker::bad_entry::BadEntry;
use crate::broker::{Delivery, Lane, Receipt, SettleRequest};
use crate::clock;
use crate::event::{EventId, EventRecord, FailureClass, Settlement, Timestamp};

/// An entry as it was handed out.
#[derive(Clone, Debug)]
pub(super) struct RawEntry {
    pub(super) lane: Lane,
    pub(super) entry: String,
    pub(super) deliveries: u32,
    /// It is this consumer's own already, from an answer that did not arrive.
    pub(super) was_unseen: bool,
    pub(super) fields: Vec<(Bytes, Bytes)>,
}

impl RawEntry {
    /// An entry that was handed out for the first time, as Redis answers it.
    pub(super) fn new(lane: &Lane, entry: Value, fields: Value) -> Result<Self, CallFailure> {
        let (entry, fields) = (reply::text(entry)?, read_fields(fields)?);
        Ok(Self { lane: lane.clone(), entry, deliveries: 1, was_unseen: false, fields })
    }
}

impl RawEntry {
    /// How large its record is.
    fn size_bytes(&self) -> u64 {
        self.fields.iter().find(|(name, _)| name == "b").map_or(0, |(_, blob)| blob.len() as u64)
    }
}

/// The fields of an entry as Redis answers them.
pub(super) fn read_fields(value: Value) -> Result<Vec<(Bytes, Bytes)>, CallFailure> {
    let pairs = reply::pairs(value)?;
    let read = |value| Ok(reply::bytes(value)?.unwrap_or_default());
    pairs.into_iter().map(|(name, value)| Ok((read(name)?, read(value)?))).collect()
}

/// The record in the fields of an entry.
pub(super) fn read_record(fields: &[(Bytes, Bytes)]) -> Result<EventRecord, DecodeError> {
    read_with(fields, codec::decode)
}

/// The record in the fields of an entry of which the payload and the result may be missing; they are left out.
pub(super) fn read_head(fields: &[(Bytes, Bytes)]) -> Result<EventRecord, DecodeError> {
    read_with(fields, codec::decode_head)
}

fn read_with(
    fields: &[(Bytes, Bytes)],
    decode: impl FnOnce(&Bytes) -> Result<EventRecord, DecodeError>,
) -> Result<EventRecord, DecodeError> {
    let [(id_name, id), (blob_name, blob)] = fields else {
        return Err(DecodeError::Damaged(format!("it has {} fields", fields.len())));
    };
    if id_name != "id" || blob_name != "b" {
        return Err(DecodeError::Damaged("its fields are not ours".into()));
    }
    let record = decode(blob)?;
    if *id != record.event.id.to_string() {
        return Err(DecodeError::Damaged("it has two ids".into()));
    }
    Ok(record)
}

impl RedisCore {
    /// Turns entries into deliveries and puts aside what is none.
    pub(super) async fn deliver(&self, mut entries: Vec<RawEntry>) -> Vec<Delivery> {
        // All are held before anything is waited for, also what cannot be read: none must look like an answer that was lost.
        entries.retain(|raw| self.held.insert(&raw.lane, &raw.entry, raw.deliveries, raw.size_bytes(), raw.was_unseen));
        let mut deliveries = Vec::with_capacity(entries.len());
        for raw in entries {
            match read_record(&raw.fields) {
                Ok(record) => deliveries.push(Delivery {
                    receipt: receipt(&raw, record.event.id),
                    deliveries: raw.deliveries,
                    record,
                }),
                Err(newer @ DecodeError::Newer(_)) => {
                    self.held.leave_alone(&raw.lane, &raw.entry);
                    self.uncount(&raw).await;
                    self.board().remark("newer-entry", || {
                        format!("{newer}; it waits in lane {} for a host that can read it", raw.lane)
                    });
                }
                Err(DecodeError::Damaged(why)) => self.bury(raw, &why).await,
            }
        }
        deliveries
    }

    /// Takes back that an entry was delivered, since nobody was given it: each host that cannot read it would bring it
    /// nearer to its end.
    async fn uncount(&self, raw: &RawEntry) {
        let call = self
            .script(&self.scripts.uncount)
            .lane_keys(&self.keys, [&raw.lane])
            .text(&self.consumer)
            .text(&raw.entry)
            .number(raw.deliveries);
        if let Err(failure) = self.link.call(&call).await {
            self.board().remark("uncount", || format!("an entry counts as delivered and was not: {}", failure.message));
        }
    }

    /// Settles an entry that is no event as failed, with what it holds.
    async fn bury(&self, raw: RawEntry, why: &str) {
        let id = self.id_for(&raw).await;
        let bad = bad_entry(id, &raw, why);
        bad.log();
        let Some(record) = bad.record(clock::now()) else { return };
        let settle = SettleRequest {
            receipt: receipt(&raw, id),
            record,
            settlement: Settlement::Failed { class: FailureClass::BadEntry, reason: why.to_owned() },
            lane: raw.lane.clone(),
            publish: Vec::new(),
            state: None,
        };
        if let Err(error) = self.settle_all(vec![settle]).await {
            // It stays pending; the next takeover after the lease tries again.
            tracing::warn!(lane = %raw.lane, entry = raw.entry, "the entry could not be put aside: {error}");
        }
    }

    /// The id that the entry claims, if the index says that this entry is that event's; else a new one.
    async fn id_for(&self, raw: &RawEntry) -> EventId {
        let claimed = raw.fields.iter().find(|(name, _)| name == "id");
        let claimed: Option<EventId> =
            claimed.and_then(|(_, id)| std::str::from_utf8(id).ok()).and_then(|id| id.parse().ok());
        let Some(id) = claimed else { return EventId::new() };
        let mut ask = redis::cmd("HGET");
        ask.arg(self.keys.index().as_ref()).arg(id.to_string());
        let place = self.link.command(&ask).await.and_then(reply::bytes).ok().flatten().unwrap_or_default();
        if place.starts_with(format!("q|{}|{}|", raw.lane, raw.entry).as_bytes()) { id } else { EventId::new() }
    }
}

fn receipt(raw: &RawEntry, event_id: EventId) -> Receipt {
    Receipt { event_id, lane: raw.lane.clone(), entry: raw.entry.clone(), deliveries: raw.deliveries }
}

/// An entry that is no event. Its name begins with the time at which it was added.
pub(super) fn bad_entry<'a>(id: EventId, raw: &'a RawEntry, why: &'a str) -> BadEntry<'a> {
    let added_ms = raw.entry.split('-').next().and_then(|ms| ms.parse().ok());
    let added = added_ms.map(Timestamp::from_unix_ms);
    BadEntry { id, lane: &raw.lane, entry: &raw.entry, added, fields: &raw.fields, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(fields: &[(&'static [u8], &'static [u8])]) -> RawEntry {
        let fields = fields.iter().map(|(name, value)| (Bytes::from_static(name), Bytes::from_static(value))).collect();
        RawEntry { lane: Lane::unrouted(), entry: "1795446245007-3".into(), deliveries: 1, was_unseen: false, fields }
    }

    #[test]
    fn what_is_not_ours_is_no_record() {
        for fields in [
            &[][..],
            &[(&b"hello"[..], &b"world"[..])],
            &[(b"id", b"x"), (b"b", b"\x01")],
            &[(b"b", b"x"), (b"id", b"y")],
            &[(b"id", b"x"), (b"b", b""), (b"b", b"")],
        ] {
            assert!(matches!(read_record(&raw(fields).fields), Err(DecodeError::Damaged(_))), "{fields:?}");
        }
    }

    #[test]
    fn an_entry_with_the_id_of_another_event_is_no_record() {
        let mut bad = bad_entry(EventId::new(), &raw(&[]), "why").record(clock::now()).unwrap();
        bad.end = None;
        let blob = codec::encode(&bad).unwrap();
        let fields = |id: String| [(Bytes::from("id"), Bytes::from(id)), (Bytes::from("b"), blob.clone())];
        assert_eq!(read_record(&fields(bad.event.id.to_string())), Ok(bad));
        assert!(read_record(&fields(EventId::new().to_string())).is_err());
    }
}
