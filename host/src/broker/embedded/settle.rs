//! Ends attempts, and puts failed events back to work.
//!
//! The row of a delivery says by itself whether it is still the one of a receipt: it is running, was claimed from that
//! place, and was delivered so often. The update that ends it asks for just that, so that a stale receipt changes nothing
//! and one that is repeated is told by the mark that it left the first time.

use rusqlite::{OptionalExtension, params};

use crate::broker::{Error, Lane, Receipt, SettleOutcome, SettleRequest};
use crate::clock;
use crate::event::{EventId, EventRecord, Settlement, StateStep};

use super::append::{PreparedEvent, due_ms, lane_number, publish, row_bytes, signed};
use super::columns::{BodyColumns, DataColumn, StoryColumns};
use super::kept;
use super::leases::{LeaseChange, LeaseToken};
use super::state;
use super::writer::WriteStep;

/// Moves an event that runs to where its settlement says, if the delivery is still the one of the receipt.
pub(super) const END: &str = "UPDATE event SET state = ?4, lane = coalesce(?5, lane), place = ?6, deliveries = 0, \
    settled_place = ?2, settled_deliveries = ?3, ended_at = ?7, class = ?8, checksum = ?9, story = ?10, result = ?11 \
    WHERE number = ?1 AND state = 1 AND place = ?2 AND deliveries = ?3";

/// A settle in the form in which it is written; made before the writer is asked.
#[derive(Debug, Clone)]
pub(super) struct PreparedSettle {
    /// `None` if the receipt is not one of ours.
    entry: Option<LeaseToken>,
    deliveries: u32,
    settlement: Settlement,
    ended_at_ms: i64,
    story: Option<StoryColumns>,
    /// Where it was claimed, and where it waits next if it does.
    from: Lane,
    lane: Lane,
    /// How large the payload is.
    data_bytes: usize,
    publish: Vec<PreparedEvent>,
    state: Option<StateStep>,
    /// What stands in the place of an event that cannot be read.
    instead: Option<BodyColumns>,
}

impl From<&SettleRequest> for PreparedSettle {
    fn from(settle: &SettleRequest) -> Self {
        let SettleRequest { receipt, record, settlement, lane, publish, state } = settle;
        Self {
            entry: receipt.entry.parse().ok(),
            deliveries: receipt.deliveries,
            settlement: settlement.clone(),
            ended_at_ms: record.end.as_ref().map_or_else(clock::now, |end| end.at).unix_ms(),
            story: StoryColumns::of(record),
            from: receipt.lane.clone(),
            data_bytes: record.event.data.as_ref().map_or(0, |data| data.bytes.len()),
            lane: lane.clone(),
            publish: publish.iter().map(PreparedEvent::from).collect(),
            state: state.clone(),
            instead: None,
        }
    }
}

impl PreparedSettle {
    fn story_bytes(&self) -> i64 {
        let of = |story: &StoryColumns| story.text.len() + story.result.as_ref().map_or(0, |result| result.bytes.len());
        i64::try_from(self.story.as_ref().map_or(0, of)).unwrap_or(i64::MAX)
    }

    /// About how much is written for it.
    pub(super) fn size_bytes(&self) -> usize {
        let story = usize::try_from(self.story_bytes()).unwrap_or_default();
        let state = self.state.as_ref().map_or(0, StateStep::size_bytes);
        story + state + self.publish.iter().map(PreparedEvent::size_bytes).sum::<usize>()
    }

    /// Ends a delivery whose event cannot be read and has so many bytes of payload, with a record that can be.
    pub(super) fn instead(receipt: &Receipt, record: &EventRecord, settlement: Settlement, data_bytes: usize) -> Self {
        let settle = SettleRequest {
            receipt: receipt.clone(),
            record: record.clone(),
            settlement,
            lane: receipt.lane.clone(),
            publish: Vec::new(),
            state: None,
        };
        Self { instead: Some(BodyColumns::of(&record.event)), data_bytes, ..Self::from(&settle) }
    }
}

/// Where the update puts the event.
struct SettleTarget {
    state: i64,
    lane: Option<i64>,
    place: i64,
    class: Option<&'static str>,
    ended_at_ms: Option<i64>,
}

/// Ends attempts, each by itself.
pub(super) fn settle(
    step: &mut WriteStep<'_>,
    batch: &[PreparedSettle],
) -> rusqlite::Result<Result<Vec<SettleOutcome>, Error>> {
    batch.iter().map(|ending| settle_one(step, ending)).collect::<Result<_, _>>().map(Ok)
}

fn settle_one(step: &mut WriteStep<'_>, ending: &PreparedSettle) -> rusqlite::Result<SettleOutcome> {
    let Some(entry) = ending.entry else { return Ok(SettleOutcome::Lost) };
    if entry.opening != step.opening {
        return repeated(step, ending, entry);
    }
    if let Some(state) = &ending.state
        && is_held(step, ending, entry)?
        && !kept::is_current(step, state)?
    {
        step.totals.counters.state_conflicts += 1;
        return Ok(SettleOutcome::Conflict);
    }
    if !end(step, ending, entry)? {
        return repeated(step, ending, entry);
    }
    if let Some(state) = &ending.state {
        kept::write(step, state)?;
    }
    if let Some(body) = &ending.instead {
        step.db
            .prepare_cached("UPDATE body SET head = ?2, data = ?3, checksum = ?4 WHERE number = ?1")?
            .execute(params![entry.number, body.head, DataColumn(body.data.as_ref()), body.checksum])?;
        step.db.prepare_cached("UPDATE event SET id = ?2, type = ?3 WHERE number = ?1")?.execute((
            entry.number,
            body.id.as_bytes(),
            body.event_type.as_str(),
        ))?;
    }
    publish(step, &ending.publish)?;
    step.changes.push(LeaseChange::Ends { number: entry.number });
    step.totals.running = step.totals.running.saturating_sub(1);
    let from = lane_number(step, &ending.from)?;
    let size_bytes = signed(row_bytes(ending.data_bytes));
    step.totals.waits(from, -1, -size_bytes);
    if !ending.settlement.is_end() {
        let lane = lane_number(step, &ending.lane)?;
        step.totals.waits(lane, 1, size_bytes);
    }
    match &ending.settlement {
        Settlement::Processed => {
            step.totals.counters.processed += 1;
            step.totals.kept(from, 1, size_bytes.saturating_add(ending.story_bytes()));
        }
        Settlement::Retry { .. } => {
            step.totals.counters.retried += 1;
            step.totals.scheduled += 1;
        }
        Settlement::Deferred { .. } => {
            step.totals.counters.deferred += 1;
            step.totals.scheduled += 1;
        }
        Settlement::Failed { class, .. } => step.totals.failed(*class),
        Settlement::Returned => {
            let lane = lane_number(step, &ending.lane)?;
            step.totals.queued(lane, 1);
        }
    }
    Ok(SettleOutcome::Done)
}

/// Whether the delivery is still the one of the receipt.
fn is_held(step: &WriteStep<'_>, ending: &PreparedSettle, entry: LeaseToken) -> rusqlite::Result<bool> {
    step.db
        .prepare_cached("SELECT 1 FROM event WHERE number = ?1 AND state = 1 AND place = ?2 AND deliveries = ?3")?
        .exists((entry.number, entry.place, ending.deliveries))
}

/// Moves the event where the settlement says, if the delivery is still the one of the receipt.
fn end(step: &mut WriteStep<'_>, ending: &PreparedSettle, entry: LeaseToken) -> rusqlite::Result<bool> {
    let target = match &ending.settlement {
        Settlement::Processed => SettleTarget {
            state: state::PROCESSED,
            lane: None,
            place: step.totals.next_number(),
            class: None,
            ended_at_ms: Some(ending.ended_at_ms),
        },
        Settlement::Retry { delay_ms, .. } | Settlement::Deferred { delay_ms } => SettleTarget {
            state: state::DUE,
            lane: Some(lane_number(step, &ending.lane)?),
            place: due_ms(step.now_ms, *delay_ms),
            class: None,
            ended_at_ms: None,
        },
        Settlement::Failed { class, .. } => SettleTarget {
            state: state::FAILED,
            lane: None,
            place: step.totals.next_number(),
            class: Some(class.as_str()),
            ended_at_ms: Some(ending.ended_at_ms),
        },
        Settlement::Returned => SettleTarget {
            state: state::QUEUED,
            lane: Some(lane_number(step, &ending.lane)?),
            place: step.totals.next_number(),
            class: None,
            ended_at_ms: None,
        },
    };
    let story = ending.story.as_ref();
    let moved = step.often.end.execute(params![
        entry.number,
        entry.place,
        ending.deliveries,
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

/// What became of a delivery that is not running: it was settled with this very receipt, or lost.
fn repeated(step: &WriteStep<'_>, ending: &PreparedSettle, entry: LeaseToken) -> rusqlite::Result<SettleOutcome> {
    let settled: Option<(Option<i64>, Option<u32>)> = step
        .db
        .prepare_cached("SELECT settled_place, settled_deliveries FROM event WHERE number = ?1")?
        .query_row([entry.number], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let is_ours = settled == Some((Some(entry.place), Some(ending.deliveries)));
    Ok(if is_ours { SettleOutcome::Done } else { SettleOutcome::Lost })
}

/// A failed event that is to go back to work, as it was found.
#[derive(Debug, Clone)]
pub(super) struct ReplayCandidate {
    pub(super) id: EventId,
    /// Where it was found among the failed events.
    pub(super) place: i64,
    pub(super) story: Option<StoryColumns>,
    pub(super) lane: Lane,
}

/// What came of putting a failed event back to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplayPlacement {
    Back,
    /// It is not where it was found: somebody was faster.
    Moved,
}

/// Puts a failed event back to work, if it is still where it was found.
pub(super) fn replay(
    step: &mut WriteStep<'_>,
    replay: &ReplayCandidate,
) -> rusqlite::Result<Result<ReplayPlacement, Error>> {
    let lane = lane_number(step, &replay.lane)?;
    let place = step.totals.next_number();
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
        return Ok(Ok(ReplayPlacement::Moved));
    }
    let data_bytes: i64 = step
        .db
        .prepare_cached(
            "SELECT coalesce(octet_length(b.data), 0) FROM event AS e JOIN body AS b ON b.number = e.number \
             WHERE e.id = ?1",
        )?
        .query_row([replay.id.as_bytes()], |row| row.get(0))?;
    step.totals.queued(lane, 1);
    step.totals.waits(lane, 1, signed(row_bytes(usize::try_from(data_bytes).unwrap_or_default())));
    step.totals.failed_kept = step.totals.failed_kept.saturating_sub(1);
    step.totals.counters.replayed += 1;
    Ok(Ok(ReplayPlacement::Back))
}
