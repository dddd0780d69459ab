//! Starts events that are due later, and cancels events that wait. Against a claim the writer decides: one step comes first.

use rusqlite::{OptionalExtension, params};

use super::EmbeddedBroker;
use super::audit;
use super::columns::{DataColumn, StoryColumns};
use super::event_state;
use super::history;
use super::row_size::{row_bytes, signed};
use super::step::{CommitMode, JobKind, WriteContext};
use crate::broker::{AuditNote, Error, WaitingEventChange};
use crate::clock;
use crate::event::{EventId, EventState};

/// A waiting event to cancel, as it was read.
struct CancelledEvent {
    id: EventId,
    /// Its place in its lane or its due time when it was read.
    place: i64,
    /// Its story from then on.
    story: Option<StoryColumns>,
    audit: Option<String>,
}

impl EmbeddedBroker {
    /// Makes an event that is due later due now. The next promotion moves it to its lane.
    pub(super) async fn make_due(&self, id: EventId, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error> {
        let audit = audit.map(AuditNote::encode).transpose()?;
        loop {
            let audit = audit.clone();
            if self.writer.run(CommitMode::Synced, move |step| make_due(step, id, audit.as_deref()).map(Ok)).await? {
                return Ok(WaitingEventChange::Done);
            }
            match self.find_state(id).await? {
                None => return Ok(WaitingEventChange::Unknown),
                // An attempt failed in between, so it is due later by now.
                Some(EventState::Scheduled | EventState::Retrying) => {}
                Some(state) => return Ok(WaitingEventChange::NotWaiting(state)),
            }
        }
    }

    async fn find_state(&self, id: EventId) -> Result<Option<EventState>, Error> {
        let stored = self.readers.read(move |db| history::find_event(db, id)).await?;
        let found = stored.map(|it| it.decode()).transpose();
        Ok(found.map_err(|error| Error::Misconfigured(error.to_string()))?.map(|found| found.state))
    }

    /// Ends an event that nobody handles.
    pub(super) async fn cancel_waiting(
        &self,
        id: EventId,
        reason: &str,
        audit: Option<&AuditNote>,
    ) -> Result<WaitingEventChange, Error> {
        let audit = audit.map(AuditNote::encode).transpose()?;
        loop {
            let Some(stored) = self.readers.read(move |db| history::find_event(db, id)).await? else {
                return Ok(WaitingEventChange::Unknown);
            };
            let found = stored.decode().map_err(|error| Error::Misconfigured(error.to_string()))?;
            if !found.state.is_waiting() {
                return Ok(WaitingEventChange::NotWaiting(found.state));
            }
            let story = StoryColumns::encode(&found.record.cancelled(clock::now(), reason));
            let size_bytes = story.as_ref().map_or(0, StoryColumns::size_bytes);
            let kind = JobKind::writes(CommitMode::Synced, size_bytes).relieving();
            let cancelled = CancelledEvent { id, place: stored.place, story, audit: audit.clone() };
            // If it moved since it was read, look again.
            if self.writer.run(kind, move |step| cancel(step, &cancelled).map(Ok)).await? {
                return Ok(WaitingEventChange::Done);
            }
        }
    }
}

fn make_due(step: &WriteContext<'_>, id: EventId, audit: Option<&str>) -> rusqlite::Result<bool> {
    let made = step
        .db
        .prepare_cached("UPDATE event SET place = min(place, ?2) WHERE id = ?1 AND state = 2")?
        .execute((id.as_bytes(), step.now_ms))?;
    if made == 1 {
        audit::write(step, audit)?;
    }
    Ok(made == 1)
}

/// Cancels a waiting event. Returns false if it is no longer as it was read.
fn cancel(step: &mut WriteContext<'_>, cancelled: &CancelledEvent) -> rusqlite::Result<bool> {
    let found: Option<(i64, i64, i64, usize, usize)> = step
        .db
        .prepare_cached(
            "SELECT e.number, e.lane, e.state, octet_length(b.head) + coalesce(octet_length(b.data), 0), \
             coalesce(octet_length(e.story), 0) + coalesce(octet_length(e.result), 0) \
             FROM event AS e JOIN body AS b ON b.number = e.number WHERE e.id = ?1 AND e.state IN (0, 2) AND e.place = ?2",
        )?
        .query_row((cancelled.id.as_bytes(), cancelled.place), |row| {
            let size = |column| row.get::<_, u32>(column).map(|bytes| bytes as usize);
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, size(3)?, size(4)?))
        })
        .optional()?;
    let Some((number, lane, state, body_bytes, story_bytes)) = found else { return Ok(false) };
    if state == event_state::QUEUED {
        step.totals.add_queued(lane, -1);
    } else {
        step.totals.scheduled = step.totals.scheduled.saturating_sub(1);
    }
    let story = cancelled.story.as_ref();
    let size_bytes = signed(row_bytes(body_bytes, story.map_or(0, StoryColumns::size_bytes)));
    step.totals.add(lane, |lane| &mut lane.waiting, -1, -signed(row_bytes(body_bytes, story_bytes)));
    step.totals.add(lane, |lane| &mut lane.discarded, 1, size_bytes);
    step.totals.counters.discarded += 1;
    let place = step.totals.take_number();
    step.db
        .prepare_cached(
            "UPDATE event SET state = ?2, place = ?3, ended_at = ?4, class = NULL, checksum = ?5, story = ?6, result = ?7 \
             WHERE number = ?1",
        )?
        .execute(params![
            number,
            event_state::DISCARDED,
            place,
            step.now_ms,
            story.map(|story| story.checksum),
            story.map(|story| &story.text),
            DataColumn(story.and_then(|story| story.result.as_ref())),
        ])?;
    audit::write(step, cancelled.audit.as_deref())?;
    Ok(true)
}
