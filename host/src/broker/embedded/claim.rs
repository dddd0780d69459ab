//! Hands deliveries out: what waits in the lanes, what dead consumers left, and what has become due.
//!
//! A delivery is in the database before it is handed out, so that an event that takes its host down is known by how
//! often it was delivered. The events come as they were found; they are decoded by whoever asked, not by the writer.

use rusqlite::params;

use crate::broker::{ClaimRequest, Error, Lane, PromoteOutcome};

use super::append::lane_number;
use super::columns::{RawColumns, record_columns};
use super::fault::contradiction;
use super::leases::{HeldDelivery, LeaseChange, LeaseTable};
use super::writer::WriteStep;

/// The most events that one call moves to their lanes.
const MAX_PROMOTED: i64 = 500;

/// A delivery whose event was not decoded yet.
#[derive(Debug)]
pub(super) struct ClaimedRow {
    pub(super) held: HeldDelivery,
    pub(super) lane: Lane,
    pub(super) found: RawColumns,
}

/// Takes what waits, at most as many as wanted.
pub(super) fn claim(
    step: &mut WriteStep<'_>,
    claim: &ClaimRequest,
) -> rusqlite::Result<Result<Vec<ClaimedRow>, Error>> {
    let mut wants: Vec<(&Lane, i64, u64)> = Vec::with_capacity(claim.lanes.len());
    for want in &claim.lanes {
        // A lane that is asked for exists from then on, whether or not anything came to it yet.
        let number = lane_number(step, &want.lane)?;
        let queued = step.totals.lane(number).map_or(0, |lane| lane.queued);
        wants.push((&want.lane, number, queued.min(want.free as u64)));
    }
    let available: Vec<u64> = wants.iter().map(|(_, _, available)| *available).collect();
    let mut claimed = Vec::new();
    for ((lane, number, _), share) in wants.into_iter().zip(shares(&available, claim.max as u64)) {
        if share > 0 {
            take(step, lane, number, share, &mut claimed)?;
        }
    }
    Ok(Ok(claimed))
}

fn take(
    step: &mut WriteStep<'_>,
    lane: &Lane,
    number: i64,
    share: u64,
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
            let held = HeldDelivery { number: row.get(0)?, lane: number, place: row.get(1)?, deliveries: 1 };
            claimed.push(ClaimedRow { held, lane: lane.clone(), found: RawColumns::read(row, 2)? });
        }
    }
    let taken = &claimed[first..];
    let Some(last) = taken.last() else { return Ok(()) };
    // No two places are the same, so these are the ones up to the last of them.
    let run = step
        .db
        .prepare_cached(
            "UPDATE event INDEXED BY queued SET state = 1, deliveries = 1 \
             WHERE state = 0 AND lane = ?1 AND place <= ?2",
        )?
        .execute((number, last.held.place))?;
    if run != taken.len() {
        let words = format!("{} events wait up to a place of lane {lane}, and {run} do", taken.len());
        return Err(contradiction(words));
    }
    for ClaimedRow { held, .. } in taken {
        step.changes.push(LeaseChange::Begins(*held));
        step.totals.queued(number, -1);
        step.totals.running += 1;
    }
    Ok(())
}

/// Takes over deliveries whose lease is over. Each has one more delivery afterwards.
pub(super) fn recover(
    step: &mut WriteStep<'_>,
    leases: &LeaseTable,
    max: usize,
) -> rusqlite::Result<Result<Vec<ClaimedRow>, Error>> {
    let mut recovered = Vec::new();
    for left in leases.over(max) {
        let held = HeldDelivery { deliveries: left.deliveries.saturating_add(1), ..left };
        // What was settled or taken over in this very step is not there any more.
        let taken = step
            .db
            .prepare_cached(
                "UPDATE event SET deliveries = ?4 WHERE number = ?1 AND state = 1 AND place = ?2 AND deliveries = ?3",
            )?
            .execute(params![left.number, left.place, left.deliveries, held.deliveries])?;
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
            .query_row([held.number], |row| Ok((row.get(0)?, RawColumns::read(row, 1)?)))?;
        let lane = step.totals.lane(lane).map_or_else(Lane::unrouted, |lane| lane.lane.clone());
        recovered.push(ClaimedRow { held, lane, found });
        step.changes.push(LeaseChange::Begins(held));
        step.totals.counters.recovered += 1;
    }
    Ok(Ok(recovered))
}

/// Moves what is due to the ends of its lanes, the longest due first.
pub(super) fn promote(step: &mut WriteStep<'_>) -> rusqlite::Result<Result<PromoteOutcome, Error>> {
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
        let place = step.totals.next_number();
        step.db.prepare_cached("UPDATE event SET state = 0, place = ?2 WHERE number = ?1")?.execute((number, place))?;
        step.totals.queued(*lane, 1);
        step.totals.scheduled = step.totals.scheduled.saturating_sub(1);
    }
    let next: Option<i64> = step
        .db
        .prepare_cached("SELECT min(place) FROM event INDEXED BY due WHERE state = 2")?
        .query_row([], |row| row.get(0))?;
    let until_next_ms = next.map(|due_ms| u64::try_from(due_ms.saturating_sub(step.now_ms)).unwrap_or_default());
    Ok(Ok(PromoteOutcome { moved: due.len(), more: until_next_ms == Some(0), next_due_in_ms: until_next_ms }))
}

/// Shares `max` out over lanes that can use so many each: evenly, what one cannot use going to the others, and what
/// cannot be divided to the first.
fn shares(available: &[u64], max: u64) -> Vec<u64> {
    let mut shares = vec![0; available.len()];
    let mut left = max;
    loop {
        let hungry: Vec<usize> = (0..available.len()).filter(|lane| shares[*lane] < available[*lane]).collect();
        if hungry.is_empty() || left == 0 {
            return shares;
        }
        let even = (left / hungry.len() as u64).max(1);
        for lane in hungry {
            let more = even.min(available[lane] - shares[lane]).min(left);
            shares[lane] += more;
            left -= more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_shared_out_evenly_and_to_the_first_lanes_first() {
        for (available, max, expected) in [
            (&[10, 10][..], 4, &[2, 2][..]),
            (&[1, 10], 4, &[1, 3]),
            (&[10, 1, 10], 6, &[3, 1, 2]),
            (&[5, 5, 5], 2, &[1, 1, 0]),
            (&[2, 3], 100, &[2, 3]),
            (&[0, 7], 3, &[0, 3]),
            (&[3], 0, &[0]),
            (&[], 3, &[]),
        ] {
            assert_eq!(shares(available, max), expected, "{available:?} for {max}");
        }
    }
}
