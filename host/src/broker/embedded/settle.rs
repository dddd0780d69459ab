//! Settles deliveries, and replays or discards failed events.
//!
//! A receipt names a delivery by its event's row, place and delivery count. The update that settles it matches on
//! these, so a stale receipt changes no row. The update stores them in the row, so a repeated settle is recognized.

use rusqlite::{OptionalExtension, params};

use crate::broker::{Error, Lane, Receipt, SettleOutcome, SettleRequest};
use crate::clock;
use crate::event::{EventId, EventRecord, Settlement, StateChanges};

use super::append::{PreparedEvent, due_ms, ensure_lane, publish};
use super::audit;
use super::columns::{BodyColumns, DataColumn, StoryColumns};
use super::leases::{LeaseChange, LeaseToken};
use super::row_size::{row_bytes, signed};
use super::step::WriteContext;
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
    publish: Vec<PreparedEvent>,
    state: Option<StateChanges>,
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
            next_lane: lane.clone(),
            publish: publish.iter().map(PreparedEvent::from).collect(),
            state: state.clone(),
            replacement: None,
        }
    }
}

impl PreparedSettle {
    fn story_bytes(&self) -> usize {
        self.story.as_ref().map_or(0, StoryColumns::size_bytes)
    }

    /// Whether it hands the delivery back as it was.
    pub(super) fn is_returned(&self) -> bool {
        self.settlement == Settlement::Returned
    }

    /// About how many bytes the writer writes for the settle.
    pub(super) fn size_bytes(&self) -> usize {
        let state = self.state.as_ref().map_or(0, StateChanges::size_bytes);
        self.story_bytes() + state + self.publish.iter().map(PreparedEvent::size_bytes).sum::<usize>()
    }

    /// Settles a delivery whose event cannot be read: `record` replaces it.
    pub(super) fn for_unreadable(receipt: &Receipt, record: &EventRecord, settlement: Settlement) -> Self {
        let settle = SettleRequest {
            receipt: receipt.clone(),
            record: record.clone(),
            settlement,
            lane: receipt.lane.clone(),
            publish: Vec::new(),
            state: None,
        };
        Self { replacement: Some(BodyColumns::encode(&record.event)), ..Self::from(&settle) }
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
    step: &mut WriteContext<'_>,
    batch: &[PreparedSettle],
) -> rusqlite::Result<Result<Vec<SettleOutcome>, Error>> {
    batch.iter().map(|request| settle_one(step, request)).collect::<Result<_, _>>().map(Ok)
}

fn settle_one(step: &mut WriteContext<'_>, request: &PreparedSettle) -> rusqlite::Result<SettleOutcome> {
    let Some(entry) = request.entry else { return Ok(SettleOutcome::Lost) };
    if entry.opening != step.opening {
        return outcome_of_repetition(step, request, entry);
    }
    if let Some(state) = &request.state
        && is_leased(step, request, entry)?
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
    let waited_bytes = signed(row_bytes(entry.body_bytes, entry.story_bytes));
    let body_bytes = request.replacement.as_ref().map_or(entry.body_bytes, BodyColumns::size_bytes);
    let size_bytes = signed(row_bytes(body_bytes, request.story_bytes()));
    step.totals.add(claimed_lane, |lane| &mut lane.waiting, -1, -waited_bytes);
    if !request.settlement.is_end() {
        let lane = ensure_lane(step, &request.next_lane)?;
        step.totals.add(lane, |lane| &mut lane.waiting, 1, size_bytes);
    }
    match &request.settlement {
        Settlement::Processed => {
            step.totals.counters.processed += 1;
            step.totals.add(claimed_lane, |lane| &mut lane.processed, 1, size_bytes);
        }
        Settlement::Retry { .. } => {
            step.totals.counters.retried += 1;
            step.totals.scheduled += 1;
        }
        Settlement::Deferred { .. } => {
            step.totals.counters.deferred += 1;
            step.totals.scheduled += 1;
        }
        Settlement::Failed { class, .. } => step.totals.count_failed(claimed_lane, *class, size_bytes),
        Settlement::Returned => {
            let lane = ensure_lane(step, &request.next_lane)?;
            step.totals.add_queued(lane, 1);
        }
    }
    Ok(SettleOutcome::Done)
}

/// Whether the consumer still holds the delivery of the receipt.
fn is_leased(step: &WriteContext<'_>, request: &PreparedSettle, entry: LeaseToken) -> rusqlite::Result<bool> {
    step.db
        .prepare_cached("SELECT 1 FROM event WHERE number = ?1 AND state = 1 AND place = ?2 AND deliveries = ?3")?
        .exists((entry.number, entry.place, request.deliveries))
}

/// Updates the event as the settlement says. Returns false if the consumer no longer holds the delivery.
fn update_event(step: &mut WriteContext<'_>, request: &PreparedSettle, entry: LeaseToken) -> rusqlite::Result<bool> {
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

/// The outcome for a delivery whose lease is over: `Done` if this receipt settled it before, else `Lost`.
fn outcome_of_repetition(
    step: &WriteContext<'_>,
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

/// A failed event to replay or to discard, as it was read.
#[derive(Debug, Clone)]
pub(super) struct FailedMove {
    pub(super) id: EventId,
    /// Its place among the failed events when it was read.
    pub(super) place: i64,
    /// Its story from then on.
    pub(super) story: Option<StoryColumns>,
    pub(super) target: FailedTarget,
    /// The note for the audit, if a person asked for the move.
    pub(super) audit: Option<String>,
}

/// What becomes of a failed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FailedTarget {
    /// It is queued again in this lane.
    Lane(Lane),
    /// It is kept as discarded.
    Discarded,
}

/// Replays or discards a failed event. Returns false if it is no longer as it was read: another call was faster.
pub(super) fn move_failed(step: &mut WriteContext<'_>, failed: &FailedMove) -> rusqlite::Result<Result<bool, Error>> {
    let found: Option<(i64, i64, u32, u32)> = step
        .db
        .prepare_cached(
            "SELECT e.number, e.lane, octet_length(b.head) + coalesce(octet_length(b.data), 0), \
             coalesce(octet_length(e.story), 0) + coalesce(octet_length(e.result), 0) \
             FROM event AS e JOIN body AS b ON b.number = e.number WHERE e.id = ?1 AND e.state = 4 AND e.place = ?2",
        )?
        .query_row((failed.id.as_bytes(), failed.place), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((number, failed_lane, body_bytes, story_bytes)) = found else { return Ok(Ok(false)) };
    let (body_bytes, story_bytes) = (body_bytes as usize, story_bytes as usize);
    let place = step.totals.take_number();
    let story = failed.story.as_ref();
    let size_bytes = signed(row_bytes(body_bytes, story.map_or(0, StoryColumns::size_bytes)));
    step.totals.add(failed_lane, |lane| &mut lane.failed, -1, -signed(row_bytes(body_bytes, story_bytes)));
    let (state, lane, ended_at_ms) = match &failed.target {
        FailedTarget::Lane(lane) => {
            let lane = ensure_lane(step, lane)?;
            step.totals.add_queued(lane, 1);
            step.totals.add(lane, |lane| &mut lane.waiting, 1, size_bytes);
            step.totals.counters.replayed += 1;
            (event_state::QUEUED, lane, None)
        }
        FailedTarget::Discarded => {
            step.totals.add(failed_lane, |lane| &mut lane.discarded, 1, size_bytes);
            step.totals.counters.discarded += 1;
            (event_state::DISCARDED, failed_lane, Some(step.now_ms))
        }
    };
    step.db
        .prepare_cached(
            "UPDATE event SET state = ?2, lane = ?3, place = ?4, ended_at = ?5, class = iif(?5 IS NULL, NULL, class), \
             checksum = ?6, story = ?7, result = ?8 WHERE number = ?1",
        )?
        .execute(params![
            number,
            state,
            lane,
            place,
            ended_at_ms,
            story.map(|story| story.checksum),
            story.map(|story| &story.text),
            DataColumn(story.and_then(|story| story.result.as_ref())),
        ])?;
    audit::write(step, failed.audit.as_deref())?;
    Ok(Ok(true))
}
