//! Takes over what another store held, each thing once, by its id or its key.
//!
//! There is no depth limit here: what comes was accepted before. What is known already, in whatever state, is left alone,
//! so that a restore that is repeated changes nothing and nothing that ended is brought back to life.

use rusqlite::params;

use crate::broker::{
    AppendRequest, Error, ExportedEvent, ExportedKey, ExportedState, Lane, RestoreOutcome, SnapshotItem,
};
use crate::event::{DeliveryStart, EventRecord, FailureClass};

use super::append::{Placement, PreparedEvent, insert, insert_row, lane_number};
use super::columns::{BodyColumns, StoryColumns};
use super::kept;
use super::state;
use super::writer::WriteStep;

/// A thing in the form in which it is written; made before the writer is asked.
#[derive(Debug, Clone)]
pub(super) enum RestoreItem {
    Key(ExportedKey),
    State(ExportedState),
    Waiting(PreparedEvent),
    Failed { body: BodyColumns, story: Option<StoryColumns>, class: FailureClass, ended_at_ms: i64 },
}

impl RestoreItem {
    /// # Errors
    /// It is said to have failed, and has no failure.
    pub(super) fn of(exported: SnapshotItem) -> Result<Self, Error> {
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
            Error::Misconfigured(format!("the event {} is to be kept as failed and has not failed", record.event.id))
        })?;
        Ok(Self::Failed { body: BodyColumns::of(&record.event), story: StoryColumns::of(record), class, ended_at_ms })
    }
}

/// Takes over each thing, in order. Refuses with [`Error::NoRoom`] before anything was written.
pub(super) fn restore(
    step: &mut WriteStep<'_>,
    batch: &[RestoreItem],
) -> rusqlite::Result<Result<Vec<RestoreOutcome>, Error>> {
    if let Some(shortage) = step.no_room {
        return Ok(Err(Error::NoRoom(shortage.to_owned())));
    }
    // It is told of each whether it was there.
    let bulk = step.bulk.take();
    let restored = batch.iter().map(|coming| restore_one(step, coming)).collect::<Result<_, _>>();
    step.bulk = bulk;
    restored.map(Ok)
}

fn restore_one(step: &mut WriteStep<'_>, coming: &RestoreItem) -> rusqlite::Result<RestoreOutcome> {
    let is_new = match coming {
        RestoreItem::Key(key) if key.until.unix_ms() <= step.now_ms => return Ok(RestoreOutcome::Expired),
        RestoreItem::Key(key) => remember(step, key)?,
        RestoreItem::State(state) if state.until.is_some_and(|until| until.unix_ms() <= step.now_ms) => {
            return Ok(RestoreOutcome::Expired);
        }
        RestoreItem::State(state) => kept::restore(step, state)?,
        RestoreItem::Waiting(event) => {
            let is_new = insert(step, event)?;
            step.totals.counters.accepted += u64::from(is_new);
            is_new
        }
        RestoreItem::Failed { body, story, class, ended_at_ms } => {
            let lane = lane_number(step, &Lane::unrouted())?;
            let spot = Placement { state: state::FAILED, lane, due: None, ended: Some((*class, *ended_at_ms)) };
            let is_new = insert_row(step, body, story.as_ref(), &spot)?;
            if is_new {
                step.totals.counters.accepted += 1;
                step.totals.failed(*class);
            }
            is_new
        }
    };
    Ok(if is_new { RestoreOutcome::Done } else { RestoreOutcome::Known })
}

/// Remembers a key, unless it is remembered already; one whose window is over is not.
fn remember(step: &WriteStep<'_>, key: &ExportedKey) -> rusqlite::Result<bool> {
    let written = step
        .db
        .prepare_cached(
            "INSERT INTO idempotency (key, fingerprint, id, until) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) \
             DO UPDATE SET fingerprint = excluded.fingerprint, id = excluded.id, until = excluded.until WHERE until <= ?5",
        )?
        .execute(params![
            key.idempotency.key,
            key.idempotency.fingerprint,
            key.id.as_bytes(),
            key.until.unix_ms(),
            step.now_ms
        ])?;
    Ok(written == 1)
}
