//! Hands out deliveries: claims waiting events, takes over those of dead consumers, and promotes events that are due.
//!
//! The database counts a delivery before it is handed out. So an event that takes its host down is known by its
//! delivery count. The caller decodes the rows, which saves the writer's time.

use rusqlite::params;

use crate::broker::fair_share::fair_shares;
use crate::broker::{ClaimRequest, Error, Lane, PromoteOutcome};

use super::append::ensure_lane;
use super::columns::{RawColumns, record_columns};
use super::leases::{LeaseChange, LeaseTable, LeasedDelivery};
use super::step::WriteContext;
use super::store::contradiction;

/// The most events that one call moves to their lanes.
const MAX_PROMOTED: i64 = 500;

/// A delivery whose event is not decoded yet.
#[derive(Debug)]
pub(super) struct ClaimedRow {
    pub(super) delivery: LeasedDelivery,
    pub(super) lane: Lane,
    pub(super) found: RawColumns,
}

/// Claims waiting events, at most as many of each lane and in all as the request asks for.
pub(super) fn claim(
    step: &mut WriteContext<'_>,
    claim: &ClaimRequest,
) -> rusqlite::Result<Result<Vec<ClaimedRow>, Error>> {
    let mut lanes: Vec<(&Lane, i64)> = Vec::with_capacity(claim.lanes.len());
    let mut available: Vec<usize> = Vec::with_capacity(claim.lanes.len());
    for demand in &claim.lanes {
        // A lane that is claimed from exists from then on, also without events.
        let number = ensure_lane(step, &demand.lane)?;
        let queued = step.totals.lane(number).map_or(0, |lane| usize::try_from(lane.queued).unwrap_or(usize::MAX));
        lanes.push((&demand.lane, number));
        available.push(queued.min(demand.free));
    }
    let mut claimed = Vec::new();
    for ((lane, number), share) in lanes.into_iter().zip(fair_shares(&available, claim.max)) {
        if share > 0 {
            claim_from_lane(step, lane, number, share, &mut claimed)?;
        }
    }
    Ok(Ok(claimed))
}

fn claim_from_lane(
    step: &mut WriteContext<'_>,
    lane: &Lane,
    number: i64,
    share: usize,
    claimed: &mut Vec<ClaimedRow>,
) -> rusqlite::Result<()> {
    let first = claimed.len();
    {
        let mut waiting = step.db.prepare_cached(concat!(
            "SELECT e.number, e.place, ",
            record_columns!(),
            " FROM event AS e INDEXED BY queued JOIN body AS b ON b.number = e.number \
             WHERE e.state = 0 AND e.lane = ?1 ORDER BY e.place LIMIT ?2"
        ))?;
        let mut rows = waiting.query((number, i64::try_from(share).unwrap_or(i64::MAX)))?;
        while let Some(row) = rows.next()? {
            let delivery = LeasedDelivery { number: row.get(0)?, lane: number, place: row.get(1)?, deliveries: 1 };
            claimed.push(ClaimedRow { delivery, lane: lane.clone(), found: RawColumns::read(row, 2)? });
        }
    }
    let taken = &claimed[first..];
    let Some(last) = taken.last() else { return Ok(()) };
    // No two events of a lane have the same place, so this updates exactly the rows that were read.
    let updated = step
        .db
        .prepare_cached(
            "UPDATE event INDEXED BY queued SET state = 1, deliveries = 1 \
             WHERE state = 0 AND lane = ?1 AND place <= ?2",
        )?
        .execute((number, last.delivery.place))?;
    if updated != taken.len() {
        let words = format!("{} events of lane {lane} were read and {updated} updated", taken.len());
        return Err(contradiction(words));
    }
    for ClaimedRow { delivery, .. } in taken {
        step.changes.push(LeaseChange::Begins(*delivery));
        step.totals.add_queued(number, -1);
        step.totals.running += 1;
    }
    Ok(())
}

/// Takes over deliveries whose lease is over. Each takeover raises the delivery count.
pub(super) fn recover(
    step: &mut WriteContext<'_>,
    leases: &LeaseTable,
    max: usize,
) -> rusqlite::Result<Result<Vec<ClaimedRow>, Error>> {
    let mut recovered = Vec::new();
    for expired in leases.next_takeover(max) {
        let delivery = LeasedDelivery { deliveries: expired.deliveries.saturating_add(1), ..expired };
        // An earlier job of this group may have settled or taken over the delivery.
        let taken = step
            .db
            .prepare_cached(
                "UPDATE event SET deliveries = ?4 WHERE number = ?1 AND state = 1 AND place = ?2 AND deliveries = ?3",
            )?
            .execute(params![expired.number, expired.place, expired.deliveries, delivery.deliveries])?;
        if taken == 0 {
            continue;
        }
        let (lane, found) = step
            .db
            .prepare_cached(concat!(
                "SELECT e.lane, ",
                record_columns!(),
                " FROM event AS e JOIN body AS b ON b.number = e.number WHERE e.number = ?1"
            ))?
            .query_row([delivery.number], |row| Ok((row.get(0)?, RawColumns::read(row, 1)?)))?;
        let lane = step.totals.lane(lane).map_or_else(Lane::unrouted, |lane| lane.lane.clone());
        recovered.push(ClaimedRow { delivery, lane, found });
        step.changes.push(LeaseChange::Begins(delivery));
        step.totals.counters.recovered += 1;
    }
    Ok(Ok(recovered))
}

/// Moves due events to the ends of their lanes, the longest due first.
pub(super) fn promote(step: &mut WriteContext<'_>) -> rusqlite::Result<Result<PromoteOutcome, Error>> {
    if step.totals.scheduled == 0 {
        return Ok(Ok(PromoteOutcome { moved: 0, more: false, next_due_in_ms: None }));
    }
    let due: Vec<(i64, i64)> = step
        .db
        .prepare_cached(
            "SELECT number, lane FROM event INDEXED BY due WHERE state = 2 AND place <= ?1 ORDER BY place LIMIT ?2",
        )?
        .query_map((step.now_ms, MAX_PROMOTED), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (number, lane) in &due {
        let place = step.totals.take_number();
        step.db.prepare_cached("UPDATE event SET state = 0, place = ?2 WHERE number = ?1")?.execute((number, place))?;
        step.totals.add_queued(*lane, 1);
        step.totals.scheduled = step.totals.scheduled.saturating_sub(1);
    }
    let next: Option<i64> = step
        .db
        .prepare_cached("SELECT min(place) FROM event INDEXED BY due WHERE state = 2")?
        .query_row([], |row| row.get(0))?;
    let until_next_ms = next.map(|due_ms| u64::try_from(due_ms.saturating_sub(step.now_ms)).unwrap_or_default());
    Ok(Ok(PromoteOutcome { moved: due.len(), more: until_next_ms == Some(0), next_due_in_ms: until_next_ms }))
}
