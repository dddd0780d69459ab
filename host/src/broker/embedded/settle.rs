//! Settles deliveries, and replays failed events.
//!
//! A receipt names a delivery by its event's row, place and delivery count. The update that settles it matches on
//! these, so a stale receipt changes no row. The update stores them in the row, so a repeated settle is recognized.

use rusqlite::{OptionalExtension, params};

use crate::broker::{Error, Lane, Receipt, SettleOutcome, SettleRequest};
use crate::clock;
use crate::event::{EventId, EventRecord, Settlement, StateStep};

use super::append::{PreparedEvent, due_ms, ensure_lane, publish};
use super::columns::{BodyColumns, DataColumn, StoryColumns};
use super::leases::{LeaseChange, LeaseToken};
use super::row_size::{row_bytes, signed};
use super::step::WriteStep;
use super::{event_state, plugin_state};

/// A settle as the writer writes it, prepared by the caller.
#[derive(Debug, Clone)]
pub(super) struct PreparedSettle {
    /// `None` if this store did not write the receipt.
    entry: Option<LeaseToken>,
    deliveries: u32,
    settlement: Settlement,
    ended_at_ms: i64,
    story: Option<StoryColumns>,
    claimed_lane: Lane,
    /// The lane in which the event waits next, if it does.
    next_lane: Lane,
    /// The size of the payload.
    data_bytes: usize,
    publish: Vec<PreparedEvent>,
    state: Option<StateStep>,
    /// Replaces the body of an event that cannot be read.
    replacement: Option<BodyColumns>,
}

impl From<&SettleRequest> for PreparedSettle {
    fn from(settle: &SettleRequest) -> Self {
        let SettleRequest { receipt, record, settlement, lane, publish, state } = settle;
        Self {
            entry: receipt.entry.parse().ok(),
            deliveries: receipt.deliveries,
            settlement: settlement.clone(),
            ended_at_ms: record.end.as_ref().map_or_else(clock::now, |end| end.at).unix_ms(),
            story: StoryColumns::encode(record),
            claimed_lane: receipt.lane.clone(),
            data_bytes: record.event.data.as_ref().map_or(0, |data| data.bytes.len()),
            next_lane: lane.clone(),
            publish: publish.iter().map(PreparedEvent::from).collect(),
            state: state.clone(),
            replacement: None,
        }
    }
}

impl PreparedSettle {
    fn story_bytes(&self) -> i64 {
        let of = |story: &StoryColumns| story.text.len() + story.result.as_ref().map_or(0, |result| result.bytes.len());
        i64::try_from(self.story.as_ref().map_or(0, of)).unwrap_or(i64::MAX)
    }

    /// About how many bytes the writer writes for the settle.
    pub(super) fn size_bytes(&self) -> usize {
        let story = usize::try_from(self.story_bytes()).unwrap_or_default();
        let state = self.state.as_ref().map_or(0, StateStep::size_bytes);
        story + state + self.publish.iter().map(PreparedEvent::size_bytes).sum::<usize>()
    }

    /// Settles a delivery whose event cannot be read: `record` replaces it. `data_bytes` is the size of its payload.
    pub(super) fn for_unreadable(
        receipt: &Receipt,
        record: &EventRecord,
        settlement: Settlement,
        data_bytes: usize,
    ) -> Self {
        let settle = SettleRequest {
            receipt: receipt.clone(),
            record: record.clone(),
            settlement,
            lane: receipt.lane.clone(),
            publish: Vec::new(),
            state: None,
        };
        Self { replacement: Some(BodyColumns::encode(&record.event)), data_bytes, ..Self::from(&settle) }
    }
}

/// The columns that a settlement sets.
struct SettleTarget {
    state: i64,
    lane: Option<i64>,
    place: i64,
    class: Option<&'static str>,
    ended_at_ms: Option<i64>,
}

/// Settles each delivery of a batch, with an outcome of its own.
pub(super) fn settle(
    step: &mut WriteStep<'_>,
    batch: &[PreparedSettle],
) -> rusqlite::Result<Result<Vec<SettleOutcome>, Error>> {
    batch.iter().map(|request| settle_one(step, request)).collect::<Result<_, _>>().map(Ok)
}

fn settle_one(step: &mut WriteStep<'_>, request: &PreparedSettle) -> rusqlite::Result<SettleOutcome> {
    let Some(entry) = request.entry else { return Ok(SettleOutcome::Lost) };
    if entry.opening != step.opening {
        return outcome_of_repetition(step, request, entry);
    }
    if let Some(state) = &request.state
        && is_held(step, request, entry)?
        && !plugin_state::can_apply(step, state)?
    {
        step.totals.counters.state_conflicts += 1;
        return Ok(SettleOutcome::Conflict);
    }
    if !update_event(step, request, entry)? {
        return outcome_of_repetition(step, request, entry);
    }
    if let Some(state) = &request.state {
        plugin_state::apply(step, state)?;
    }
    if let Some(body) = &request.replacement {
        step.db
            .prepare_cached("UPDATE body SET head = ?2, data = ?3, checksum = ?4 WHERE number = ?1")?
            .execute(params![entry.number, body.head, DataColumn(body.data.as_ref()), body.checksum])?;
        step.db.prepare_cached("UPDATE event SET id = ?2, type = ?3 WHERE number = ?1")?.execute((
            entry.number,
            body.id.as_bytes(),
            body.event_type.as_str(),
        ))?;
    }
    publish(step, &request.publish)?;
    step.changes.push(LeaseChange::Ends { number: entry.number });
    step.totals.running = step.totals.running.saturating_sub(1);
    let claimed_lane = ensure_lane(step, &request.claimed_lane)?;
    let size_bytes = signed(row_bytes(request.data_bytes));
    step.totals.add_waiting(claimed_lane, -1, -size_bytes);
    if !request.settlement.is_end() {
        let lane = ensure_lane(step, &request.next_lane)?;
        step.totals.add_waiting(lane, 1, size_bytes);
    }
    match &request.settlement {
        Settlement::Processed => {
            step.totals.counters.processed += 1;
            step.totals.add_kept(claimed_lane, 1, size_bytes.saturating_add(request.story_bytes()));
        }
        Settlement::Retry { .. } => {
            step.totals.counters.retried += 1;
            step.totals.scheduled += 1;
        }
        Settlement::Deferred { .. } => {
            step.totals.counters.deferred += 1;
            step.totals.scheduled += 1;
        }
        Settlement::Failed { class, .. } => step.totals.count_failed(*class),
        Settlement::Returned => {
            let lane = ensure_lane(step, &request.next_lane)?;
            step.totals.add_queued(lane, 1);
        }
    }
    Ok(SettleOutcome::Done)
}

/// Whether the consumer still holds the delivery of the receipt.
fn is_held(step: &WriteStep<'_>, request: &PreparedSettle, entry: LeaseToken) -> rusqlite::Result<bool> {
    step.db
        .prepare_cached("SELECT 1 FROM event WHERE number = ?1 AND state = 1 AND place = ?2 AND deliveries = ?3")?
        .exists((entry.number, entry.place, request.deliveries))
}

/// Updates the event as the settlement says. Returns false if the consumer no longer holds the delivery.
fn update_event(step: &mut WriteStep<'_>, request: &PreparedSettle, entry: LeaseToken) -> rusqlite::Result<bool> {
    let target = match &request.settlement {
        Settlement::Processed => SettleTarget {
            state: event_state::PROCESSED,
            lane: None,
            place: step.totals.take_number(),
            class: None,
            ended_at_ms: Some(request.ended_at_ms),
        },
        Settlement::Retry { delay_ms, .. } | Settlement::Deferred { delay_ms } => SettleTarget {
            state: event_state::DUE,
            lane: Some(ensure_lane(step, &request.next_lane)?),
            place: due_ms(step.now_ms, *delay_ms),
            class: None,
            ended_at_ms: None,
        },
        Settlement::Failed { class, .. } => SettleTarget {
            state: event_state::FAILED,
            lane: None,
            place: step.totals.take_number(),
            class: Some(class.as_str()),
            ended_at_ms: Some(request.ended_at_ms),
        },
        Settlement::Returned => SettleTarget {
            state: event_state::QUEUED,
            lane: Some(ensure_lane(step, &request.next_lane)?),
            place: step.totals.take_number(),
            class: None,
            ended_at_ms: None,
        },
    };
    let story = request.story.as_ref();
    let moved = step.statements.settle.execute(params![
        entry.number,
        entry.place,
        request.deliveries,
        target.state,
        target.lane,
        target.place,
        target.ended_at_ms,
        target.class,
        story.map(|story| story.checksum),
        story.map(|story| &story.text),
        DataColumn(story.and_then(|story| story.result.as_ref())),
    ])?;
    Ok(moved == 1)
}

/// The outcome for a delivery that is not held: `Done` if this receipt settled it before, else `Lost`.
fn outcome_of_repetition(
    step: &WriteStep<'_>,
    request: &PreparedSettle,
    entry: LeaseToken,
) -> rusqlite::Result<SettleOutcome> {
    let settled: Option<(Option<i64>, Option<u32>)> = step
        .db
        .prepare_cached("SELECT settled_place, settled_deliveries FROM event WHERE number = ?1")?
        .query_row([entry.number], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let is_ours = settled == Some((Some(entry.place), Some(request.deliveries)));
    Ok(if is_ours { SettleOutcome::Done } else { SettleOutcome::Lost })
}

/// A failed event to replay, as it was read.
#[derive(Debug, Clone)]
pub(super) struct ReplayCandidate {
    pub(super) id: EventId,
    /// Its place among the failed events when it was read.
    pub(super) place: i64,
    pub(super) story: Option<StoryColumns>,
    pub(super) lane: Lane,
}

/// The result of [`replay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplayPlacement {
    Replayed,
    /// The event is no longer as it was read: another call was faster.
    Changed,
}

/// Moves a failed event to a lane, if it is still as it was read.
pub(super) fn replay(
    step: &mut WriteStep<'_>,
    replay: &ReplayCandidate,
) -> rusqlite::Result<Result<ReplayPlacement, Error>> {
    let lane = ensure_lane(step, &replay.lane)?;
    let place = step.totals.take_number();
    let story = replay.story.as_ref();
    let moved = step
        .db
        .prepare_cached(
            "UPDATE event SET state = 0, lane = ?3, place = ?4, ended_at = NULL, class = NULL, checksum = ?5, \
             story = ?6, result = NULL WHERE id = ?1 AND state = 4 AND place = ?2",
        )?
        .execute(params![
            replay.id.as_bytes(),
            replay.place,
            lane,
            place,
            story.map(|story| story.checksum),
            story.map(|story| &story.text),
        ])?;
    if moved == 0 {
        return Ok(Ok(ReplayPlacement::Changed));
    }
    let data_bytes: i64 = step
        .db
        .prepare_cached(
            "SELECT coalesce(octet_length(b.data), 0) FROM event AS e JOIN body AS b ON b.number = e.number \
             WHERE e.id = ?1",
        )?
        .query_row([replay.id.as_bytes()], |row| row.get(0))?;
    step.totals.add_queued(lane, 1);
    step.totals.add_waiting(lane, 1, signed(row_bytes(usize::try_from(data_bytes).unwrap_or_default())));
    step.totals.failed_kept = step.totals.failed_kept.saturating_sub(1);
    step.totals.counters.replayed += 1;
    Ok(Ok(ReplayPlacement::Replayed))
}
