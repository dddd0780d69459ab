//! Taking over what another store held: many things in one call of one script.
//!
//! An event is known by its id in the index, a key by itself, so that a call whose answer was lost can be made again. The
//! epoch is checked as for an append: a store that lost its data half-way through must not be taken for complete.

use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec;
use super::core::{LanePlaces, RedisCore};
use super::reply;
use super::scripts::ScriptCall;
use crate::broker::{Error, Lane, RestoreOutcome, SnapshotItem};
use crate::event::FailureClass;

/// Things of one call, and their bytes but for a single larger one.
const MAX_ITEMS: usize = 100;
const MAX_CALL_BYTES: usize = 4 * 1024 * 1024;

/// A thing, encoded.
struct EncodedItem {
    what: EncodedKind,
    id: String,
    blob: Bytes,
}

enum EncodedKind {
    Key { key: [u8; 32], until_ms: u64 },
    Waiting { lane: Lane, due_ms: u64 },
    Failed { class: FailureClass },
    State { plugin: String, until_ms: u64 },
}

impl EncodedItem {
    fn of(exported: SnapshotItem) -> Result<Self, Error> {
        let encode = |record| codec::encode(record).map_err(|error| Error::Misconfigured(error.to_string()));
        let unix_ms = |time: crate::event::Timestamp| u64::try_from(time.unix_ms()).unwrap_or(0);
        match exported {
            SnapshotItem::Key(key) => {
                let id = key.id.to_string();
                let mut value = BytesMut::from(id.as_bytes());
                value.put_slice(&key.idempotency.fingerprint);
                let what = EncodedKind::Key { key: key.idempotency.key, until_ms: unix_ms(key.until) };
                Ok(Self { what, id, blob: value.freeze() })
            }
            SnapshotItem::Waiting(event) => {
                let what = EncodedKind::Waiting { lane: event.lane, due_ms: event.due.map_or(0, unix_ms) };
                Ok(Self { what, id: event.record.event.id.to_string(), blob: encode(&event.record)? })
            }
            SnapshotItem::State(state) => {
                let what = EncodedKind::State { plugin: state.plugin, until_ms: state.until.map_or(0, unix_ms) };
                Ok(Self { what, id: state.key, blob: state.value })
            }
            SnapshotItem::Failed(record) => {
                let id = record.event.id.to_string();
                let failure = record.end.as_ref().and_then(|end| end.failure.as_ref());
                let Some((class, _)) = failure else {
                    let message = format!("the event {id} is to be kept as failed and has not failed");
                    return Err(Error::Misconfigured(message));
                };
                Ok(Self { what: EncodedKind::Failed { class: *class }, id, blob: encode(&record)? })
            }
        }
    }

    fn lane(&self) -> Option<&Lane> {
        match &self.what {
            EncodedKind::Waiting { lane, .. } => Some(lane),
            EncodedKind::Key { .. } | EncodedKind::Failed { .. } | EncodedKind::State { .. } => None,
        }
    }
}

impl RedisCore {
    /// See [`crate::broker::StoreTransfer::restore`].
    pub(super) async fn restore(&self, batch: Vec<SnapshotItem>) -> Result<Vec<RestoreOutcome>, Error> {
        let batch = batch.into_iter().map(EncodedItem::of).collect::<Result<Vec<_>, _>>()?;
        self.make_lanes(self.missing_lanes(batch.iter().filter_map(EncodedItem::lane))).await?;
        let mut restored = Vec::with_capacity(batch.len());
        for chunk in chunks(&batch) {
            restored.extend(self.restore_chunk(chunk).await?);
        }
        Ok(restored)
    }

    async fn restore_chunk(&self, chunk: &[EncodedItem]) -> Result<Vec<RestoreOutcome>, Error> {
        self.may_accept()?;
        let seen = self.accepted_seen.load(Ordering::SeqCst);
        let mut items = reply::array(self.link.repeat(&self.restore_call(chunk)).await?)?;
        if items.len() != 3 {
            return Err(self.lost_data());
        }
        let answers = reply::array(items.pop().unwrap_or_default())?;
        self.note_accepted(seen, reply::count(&items[1])?);
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
            places.of(lane);
        }
        let mut call =
            self.script(&self.scripts.restore).text(&self.epoch.load()).named_lanes(&self.keys, places.lanes());
        call.push_number(chunk.len());
        call.push_key(self.keys.state_spaces());
        call.push_key(self.keys.state_untils());
        let mut n_keys = 0_usize;
        for coming in chunk {
            let (what, place, ms, class) = match &coming.what {
                EncodedKind::Key { key, until_ms } => {
                    call.push_key(self.keys.idempotency(key));
                    n_keys += 1;
                    ("key", n_keys, *until_ms, "")
                }
                EncodedKind::Waiting { lane, due_ms } => ("event", places.of(lane), *due_ms, ""),
                EncodedKind::Failed { class } => ("failed", 0, 0, class.as_str()),
                EncodedKind::State { plugin, until_ms } => {
                    call.push_key(self.keys.state_of(plugin));
                    n_keys += 1;
                    ("state", n_keys, *until_ms, plugin.as_str())
                }
            };
            call.push_text(what);
            call.push_text(&coming.id);
            call.push_number(place);
            call.push_number(ms);
            call.push_text(class);
            call.push_bytes(coming.blob.clone());
        }
        call
    }
}

/// Cuts a batch into calls that do not hold up Redis.
fn chunks(batch: &[EncodedItem]) -> Vec<&[EncodedItem]> {
    let mut chunks = Vec::new();
    let (mut start, mut size_bytes) = (0, 0);
    for (place, coming) in batch.iter().enumerate() {
        if place > start && (place - start >= MAX_ITEMS || size_bytes + coming.blob.len() > MAX_CALL_BYTES) {
            chunks.push(&batch[start..place]);
            (start, size_bytes) = (place, 0);
        }
        size_bytes += coming.blob.len();
    }
    if start < batch.len() {
        chunks.push(&batch[start..]);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cut_by_number_and_by_bytes() {
        let sizes = |sizes: &[usize]| {
            let coming = |size: &usize| EncodedItem {
                what: EncodedKind::Failed { class: FailureClass::Trap },
                id: String::new(),
                blob: vec![0; *size].into(),
            };
            let batch: Vec<EncodedItem> = sizes.iter().map(coming).collect();
            chunks(&batch).iter().map(|chunk| chunk.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0_usize; 0]);
        assert_eq!(sizes(&[1; 250]), [100, 100, 50]);
        assert_eq!(sizes(&[MAX_CALL_BYTES, 1, 1, 2 * MAX_CALL_BYTES, 1]), [1, 2, 1, 1]);
    }
}
