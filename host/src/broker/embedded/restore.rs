//! Takes over what another store held, each thing once, by its id or its key.
//!
//! There is no depth limit here: what comes was accepted before. What is known already, in whatever state, is left alone,
//! so that a restore that is repeated changes nothing and nothing that ended is brought back to life.

use rusqlite::params;

use crate::broker::{Append, Error, Exported, ExportedEvent, ExportedKey, ExportedState, Lane, Restored};
use crate::event::{Class, Record, Start};

use super::append::{NewEvent, Spot, insert, insert_row, lane_number};
use super::columns::{Body, Story};
use super::kept;
use super::state;
use super::writer::Step;

/// A thing in the form in which it is written; made before the writer is asked.
#[derive(Debug, Clone)]
pub(super) enum Coming {
    Key(ExportedKey),
    State(ExportedState),
    Waiting(NewEvent),
    Failed { body: Body, story: Option<Story>, class: Class, ended_at_ms: i64 },
}

impl Coming {
    /// # Errors
    /// It is said to have failed, and has no failure.
    pub(super) fn of(exported: Exported) -> Result<Self, Error> {
        match exported {
            Exported::Key(key) => Ok(Self::Key(key)),
            Exported::State(state) => Ok(Self::State(state)),
            Exported::Waiting(ExportedEvent { record, lane, due }) => {
                let start = due.map_or(Start::Now, Start::At);
                Ok(Self::Waiting(NewEvent::from(&Append { record, lane, start, idempotency: None })))
            }
            Exported::Failed(record) => Self::failed(&record),
        }
    }

    fn failed(record: &Record) -> Result<Self, Error> {
        let failed = record.end.as_ref().and_then(|end| Some((end.failure.as_ref()?.0, end.at.unix_ms())));
        let (class, ended_at_ms) = failed.ok_or_else(|| {
            Error::Misconfigured(format!("the event {} is to be kept as failed and has not failed", record.event.id))
        })?;
        Ok(Self::Failed { body: Body::of(&record.event), story: Story::of(record), class, ended_at_ms })
    }
}

/// Takes over each thing, in order. Refuses with [`Error::NoRoom`] before anything was written.
pub(super) fn restore(step: &mut Step<'_>, batch: &[Coming]) -> rusqlite::Result<Result<Vec<Restored>, Error>> {
    if let Some(shortage) = step.no_room {
        return Ok(Err(Error::NoRoom(shortage.to_owned())));
    }
    // It is told of each whether it was there.
    let bulk = step.bulk.take();
    let restored = batch.iter().map(|coming| restore_one(step, coming)).collect::<Result<_, _>>();
    step.bulk = bulk;
    restored.map(Ok)
}

fn restore_one(step: &mut Step<'_>, coming: &Coming) -> rusqlite::Result<Restored> {
    let is_new = match coming {
        Coming::Key(key) if key.until.unix_ms() <= step.now_ms => return Ok(Restored::Expired),
        Coming::Key(key) => remember(step, key)?,
        Coming::State(state) if state.until.is_some_and(|until| until.unix_ms() <= step.now_ms) => {
            return Ok(Restored::Expired);
        }
        Coming::State(state) => kept::restore(step, state)?,
        Coming::Waiting(event) => {
            let is_new = insert(step, event)?;
            step.totals.counters.accepted += u64::from(is_new);
            is_new
        }
        Coming::Failed { body, story, class, ended_at_ms } => {
            let lane = lane_number(step, &Lane::unrouted())?;
            let spot = Spot { state: state::FAILED, lane, due: None, ended: Some((*class, *ended_at_ms)) };
            let is_new = insert_row(step, body, story.as_ref(), &spot)?;
            if is_new {
                step.totals.counters.accepted += 1;
                step.totals.failed(*class);
            }
            is_new
        }
    };
    Ok(if is_new { Restored::Done } else { Restored::Known })
}

/// Remembers a key, unless it is remembered already; one whose window is over is not.
fn remember(step: &Step<'_>, key: &ExportedKey) -> rusqlite::Result<bool> {
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
