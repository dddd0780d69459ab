//! Restores the items of a snapshot, each once, by its event id or its key.
//!
//! No depth limit applies, since the events were accepted before. An item that the store knows stays as it is. So a
//! repeated restore changes nothing, and an event that ended is not handled again.

use rusqlite::params;

use crate::broker::{
    AppendRequest, Error, ExportedEvent, ExportedKey, ExportedState, Lane, RestoreOutcome, SnapshotItem,
};
use crate::event::{DeliveryStart, EventRecord, FailureClass};

use super::append::{Placement, PreparedEvent, ensure_lane, find_idempotency_key, insert_event, insert_waiting};
use super::columns::{BodyColumns, StoryColumns};
use super::row_size::{row_bytes, signed};
use super::step::WriteContext;
use super::{event_state, plugin_state};

/// An item as the writer writes it, prepared by the caller.
#[derive(Debug, Clone)]
pub(super) enum PreparedItem {
    Key(ExportedKey),
    State(ExportedState),
    Waiting(PreparedEvent),
    Failed { body: BodyColumns, story: Option<StoryColumns>, lane: Lane, class: FailureClass, ended_at_ms: i64 },
}

impl PreparedItem {
    /// Prepares an item.
    ///
    /// # Errors
    /// The item is a failed event without a failure.
    pub(super) fn prepare(exported: SnapshotItem) -> Result<Self, Error> {
        match exported {
            SnapshotItem::Key(key) => Ok(Self::Key(key)),
            SnapshotItem::State(state) => Ok(Self::State(state)),
            SnapshotItem::Waiting(ExportedEvent { record, lane, due }) => {
                let start = due.map_or(DeliveryStart::Now, DeliveryStart::At);
                Ok(Self::Waiting(PreparedEvent::from(&AppendRequest { record, lane, start, idempotency: None })))
            }
            SnapshotItem::Failed(record) => Self::failed(&record),
        }
    }

    fn failed(record: &EventRecord) -> Result<Self, Error> {
        let failed = record.end.as_ref().and_then(|end| Some((end.failure.as_ref()?.0, end.at.unix_ms())));
        let (class, ended_at_ms) = failed.ok_or_else(|| {
            Error::Misconfigured(format!(
                "the event {} is exported as failed, but its record has no failure",
                record.event.id
            ))
        })?;
        Ok(Self::Failed {
            body: BodyColumns::encode(&record.event),
            story: StoryColumns::encode(record),
            lane: Lane::of_failed(record),
            class,
            ended_at_ms,
        })
    }
}

/// Restores each item, in order. The inner error is [`Error::NoRoom`]; then nothing was written.
pub(super) fn restore(
    step: &mut WriteContext<'_>,
    batch: &[PreparedItem],
) -> rusqlite::Result<Result<Vec<RestoreOutcome>, Error>> {
    if let Some(shortage) = step.no_room {
        return Ok(Err(Error::NoRoom(shortage.to_owned())));
    }
    // A bulk insert learns of a duplicate id too late for the answer of its item.
    let bulk = step.bulk.take();
    let restored = batch.iter().map(|item| restore_one(step, item)).collect::<Result<_, _>>();
    step.bulk = bulk;
    restored.map(Ok)
}

fn restore_one(step: &mut WriteContext<'_>, item: &PreparedItem) -> rusqlite::Result<RestoreOutcome> {
    let is_new = match item {
        PreparedItem::Key(key) if key.until.unix_ms() <= step.now_ms => return Ok(RestoreOutcome::Expired),
        PreparedItem::Key(key) => restore_key(step, key)?,
        PreparedItem::State(state) if state.until.is_some_and(|until| until.unix_ms() <= step.now_ms) => {
            return Ok(RestoreOutcome::Expired);
        }
        PreparedItem::State(state) => plugin_state::restore(step, state)?,
        PreparedItem::Waiting(event) => {
            let is_new = insert_waiting(step, event)?;
            step.totals.counters.accepted += u64::from(is_new);
            is_new
        }
        PreparedItem::Failed { body, story, lane, class, ended_at_ms } => {
            let lane = ensure_lane(step, lane)?;
            let placement =
                Placement { state: event_state::FAILED, lane, due: None, ended: Some((*class, *ended_at_ms)) };
            let is_new = insert_event(step, body, story.as_ref(), &placement)?;
            if is_new {
                step.totals.counters.accepted += 1;
                let story_bytes = story.as_ref().map_or(0, StoryColumns::size_bytes);
                step.totals.count_failed(lane, *class, signed(row_bytes(body.size_bytes(), story_bytes)));
            }
            is_new
        }
    };
    Ok(if is_new { RestoreOutcome::Done } else { RestoreOutcome::Known })
}

/// Writes an idempotency key, unless the key is known and its window is not over. The lane of its event is not exported, so
/// it counts for the lane of events that no plugin handles.
fn restore_key(step: &mut WriteContext<'_>, key: &ExportedKey) -> rusqlite::Result<bool> {
    if find_idempotency_key(step, &key.idempotency.key)?.is_some() {
        return Ok(false);
    }
    let lane = ensure_lane(step, &Lane::unrouted())?;
    step.db
        .prepare_cached("INSERT INTO idempotency (key, fingerprint, id, until, lane) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            key.idempotency.key,
            key.idempotency.fingerprint,
            key.id.as_bytes(),
            key.until.unix_ms(),
            lane
        ])?;
    step.totals.add_idempotency_keys(lane, 1);
    Ok(true)
}
