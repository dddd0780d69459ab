//! Turns raw entries into deliveries.
//!
//! A bad entry is never dispatched and never blocks the entries after it: it is settled at once as failed, with the class
//! `bad-entry` and its fields as data. An entry of a newer format stays pending until a newer host reads it.

use std::sync::Arc;

use super::client::StoreClient;
use super::codec::CodecError;
use super::connection::reply;
use super::holdings::Holdings;
use super::raw_entry::{RawEntry, read_record};
use super::settle::DeliverySettler;
use crate::broker::{Delivery, SettleRequest};
use crate::clock;
use crate::event::{EventId, FailureClass, Settlement};

/// Decodes entries and hands them out.
pub(super) struct EntryDecoder {
    pub(super) client: Arc<StoreClient>,
    pub(super) holdings: Arc<Holdings>,
    pub(super) settler: Arc<DeliverySettler>,
}

impl EntryDecoder {
    /// Decodes entries into deliveries, and settles or sets aside those that are no events.
    pub(super) async fn deliver(&self, mut entries: Vec<RawEntry>) -> Vec<Delivery> {
        // All become known before the first await, unreadable ones too. Otherwise recovery would take them for entries
        // whose reply was lost.
        entries.retain(|raw| {
            self.holdings.insert(&raw.lane, &raw.entry, raw.deliveries, raw.size_bytes(), raw.was_unseen)
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
                    self.holdings.mark_unreadable(&raw.lane, &raw.entry);
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
