//! Imports items of a snapshot: many in one call of one script.
//!
//! The script recognizes events by their ids and keys by their names, so a call can be repeated after a lost reply. It
//! checks the epoch as an append does: a store that loses its data during an import must not count as complete.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::broker::redis::client::StoreClient;
use crate::broker::redis::codec::{self, RecordVersion};
use crate::broker::redis::connection::reply;
use crate::broker::redis::epoch::StoreEpoch;
use crate::broker::redis::lanes::{LaneDirectory, LanePlaces};
use crate::broker::redis::scripts::{ScriptCall, split_calls};
use crate::broker::{Error, Lane, RestoreOutcome, SnapshotItem};
use crate::event::{FailureClass, Timestamp};

/// The most items of one call, and their most bytes unless a single item is larger.
const MAX_ITEMS: usize = 100;
const MAX_CALL_BYTES: usize = 4 * 1024 * 1024;

/// An item, encoded.
struct EncodedItem {
    kind: EncodedKind,
    id: String,
    blob: Bytes,
}

enum EncodedKind {
    Key { key: [u8; 32], until_ms: u64 },
    Waiting { lane: Lane, due_ms: u64 },
    Failed { class: FailureClass, lane: Lane },
    State { plugin: String, until_ms: u64 },
}

impl EncodedItem {
    fn encode(exported: SnapshotItem, version: RecordVersion) -> Result<Self, Error> {
        let unix_ms = |time: Timestamp| u64::try_from(time.unix_ms()).unwrap_or(0).min(ScriptCall::MAX_NUMBER);
        match exported {
            SnapshotItem::Key(key) => {
                let id = key.id.to_string();
                let mut value = BytesMut::from(id.as_bytes());
                value.put_slice(&key.idempotency.fingerprint);
                let kind = EncodedKind::Key { key: key.idempotency.key, until_ms: unix_ms(key.until) };
                Ok(Self { kind, id, blob: value.freeze() })
            }
            SnapshotItem::Waiting(event) => {
                let kind = EncodedKind::Waiting { lane: event.lane, due_ms: event.due.map_or(0, unix_ms) };
                Ok(Self { kind, id: event.record.event.id.to_string(), blob: codec::encode(&event.record, version)? })
            }
            SnapshotItem::State(state) => {
                let kind = EncodedKind::State { plugin: state.plugin, until_ms: state.until.map_or(0, unix_ms) };
                Ok(Self { kind, id: state.key, blob: state.value })
            }
            SnapshotItem::Failed(record) => {
                let id = record.event.id.to_string();
                let failure = record.end.as_ref().and_then(|end| end.failure.as_ref());
                let Some((class, _)) = failure else {
                    let message = format!("the event {id} is exported as failed, but has no failure");
                    return Err(Error::Misconfigured(message));
                };
                let kind = EncodedKind::Failed { class: *class, lane: Lane::of_failed(&record) };
                Ok(Self { kind, id, blob: codec::encode(&record, version)? })
            }
        }
    }

    fn lane(&self) -> Option<&Lane> {
        match &self.kind {
            EncodedKind::Waiting { lane, .. } => Some(lane),
            EncodedKind::Key { .. } | EncodedKind::Failed { .. } | EncodedKind::State { .. } => None,
        }
    }
}

/// Imports items of snapshots.
pub struct SnapshotImporter {
    pub client: Arc<StoreClient>,
    pub lanes: Arc<LaneDirectory>,
    pub epoch: Arc<StoreEpoch>,
}

impl SnapshotImporter {
    /// Imports a batch; the outcomes are in the order of its items.
    pub async fn restore(&self, batch: Vec<SnapshotItem>) -> Result<Vec<RestoreOutcome>, Error> {
        let version = self.client.record_version();
        let encode = |item| EncodedItem::encode(item, version);
        let batch = batch.into_iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        self.lanes.make(self.lanes.find_missing(batch.iter().filter_map(EncodedItem::lane))).await?;
        let mut restored = Vec::with_capacity(batch.len());
        for chunk in chunks(&batch) {
            restored.extend(self.restore_chunk(chunk).await?);
        }
        Ok(restored)
    }

    async fn restore_chunk(&self, chunk: &[EncodedItem]) -> Result<Vec<RestoreOutcome>, Error> {
        self.epoch.ensure_accepting()?;
        let seen = self.epoch.accepted_seen();
        let mut items = reply::array(self.client.link.call_until_known(&self.restore_call(chunk)).await?)?;
        if items.len() != 3 {
            return Err(self.epoch.report_loss());
        }
        let answers = reply::array(items.pop().unwrap_or_default())?;
        self.epoch.note_accepted(seen, reply::count(&items[1])?);
        let read = |answer| {
            Ok(match reply::text(answer)?.as_str() {
                "D" => RestoreOutcome::Done,
                "E" => RestoreOutcome::Expired,
                _ => RestoreOutcome::Known,
            })
        };
        answers.into_iter().map(read).collect()
    }

    fn restore_call(&self, chunk: &[EncodedItem]) -> ScriptCall<'_> {
        let mut places = LanePlaces::default();
        for lane in chunk.iter().filter_map(EncodedItem::lane) {
            places.place_of(lane);
        }
        let client = &self.client;
        let mut call = client
            .script_call(&client.scripts.restore)
            .text(&self.epoch.current())
            .named_lanes(&client.keys, places.lanes());
        call.push_number(chunk.len());
        call.push_key(client.keys.state_spaces());
        call.push_key(client.keys.state_expiries());
        call.push_key(client.keys.idempotency_ends());
        let mut n_keys = 0_usize;
        for item in chunk {
            let (word, place, until, class) = match &item.kind {
                EncodedKind::Key { key, until_ms } => {
                    call.push_key(client.keys.idempotency(key));
                    n_keys += 1;
                    ("key", n_keys, until_ms.to_string(), "")
                }
                EncodedKind::Waiting { lane, due_ms } => ("event", places.place_of(lane), due_ms.to_string(), ""),
                EncodedKind::Failed { class, lane } => ("failed", 0, lane.to_string(), class.as_str()),
                EncodedKind::State { plugin, until_ms } => {
                    call.push_key(client.keys.state_of(plugin));
                    n_keys += 1;
                    ("state", n_keys, until_ms.to_string(), plugin.as_str())
                }
            };
            call.push_text(word);
            call.push_text(&item.id);
            call.push_number(place);
            call.push_text(&until);
            call.push_text(class);
            call.push_bytes(item.blob.clone());
        }
        call
    }
}

/// Splits a batch into calls that do not block Redis for long.
fn chunks(batch: &[EncodedItem]) -> Vec<&[EncodedItem]> {
    split_calls(batch, [MAX_ITEMS, MAX_CALL_BYTES], |item| [1, item.blob.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_split_by_number_and_by_bytes() {
        let sizes = |sizes: &[usize]| {
            let item = |size: &usize| EncodedItem {
                kind: EncodedKind::Failed { class: FailureClass::Trap, lane: Lane::unrouted() },
                id: String::new(),
                blob: vec![0; *size].into(),
            };
            let batch: Vec<EncodedItem> = sizes.iter().map(item).collect();
            chunks(&batch).iter().map(|chunk| chunk.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0_usize; 0]);
        assert_eq!(sizes(&[1; 250]), [100, 100, 50]);
        assert_eq!(sizes(&[MAX_CALL_BYTES, 1, 1, 2 * MAX_CALL_BYTES, 1]), [1, 2, 1, 1]);
    }
}
