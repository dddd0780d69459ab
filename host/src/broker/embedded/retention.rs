//! Makes room: deletes processed and discarded events past their retention and idempotency keys past their window, and
//! returns free pages to the disk.
//!
//! No other events are deleted. Each call does a bounded piece of work, so that it delays other jobs little.
//! Repeat it while it returns true.

use std::cmp::Reverse;

use rusqlite::OptionalExtension;

use crate::broker::Error;

use super::row_size::{row_bytes, signed};
use super::step::{MoreWork, WriteContext};
use super::totals::{LaneTotal, Tally};

/// The most events or keys that one call deletes: more than one group of the writer settles. So the history stays
/// within its limits, however fast events end.
const MAX_DELETED: i64 = 500;
/// The most events that one call examines for those of one lane.
const MAX_EXAMINED: i64 = 5_000;
/// One call deletes at most a tenth of a lane's history, unless the lane has more than any other.
const TURN_SHARE: u64 = 10;
/// The most pages that one call returns.
const MAX_RETURNED_PAGES: i64 = 500;
/// The most pages that one call returns while the disk is full.
const MAX_RETURNED_PAGES_WHEN_FULL: i64 = 100;
/// The free pages that the database keeps for reuse: 1 MiB.
const MIN_FREE_PAGES: i64 = 256;
/// Pages are returned when more than a quarter of all pages is free.
const FREE_SHARE: i64 = 4;

/// Deletes processed and discarded events beyond the limits of age, number or bytes.
pub(super) fn trim_history(step: &mut WriteContext<'_>) -> rusqlite::Result<Result<MoreWork, Error>> {
    let retention = step.options.retention;
    // Only one kind in each step: what a step writes must fit into the log, also when the disk is full.
    let mut trimmed = trim_by_age(step, HistoryPart::Processed, retention.processed_ms)?;
    if !trimmed.did_work {
        trimmed = trim_by_age(step, HistoryPart::Discarded, retention.discarded_ms)?;
    }
    if !trimmed.did_work {
        trimmed = trim_excess(step, RetentionMeasure::ProcessedEvents, retention.processed_max)?;
    }
    if !trimmed.did_work {
        trimmed = trim_excess(step, RetentionMeasure::Bytes, retention.processed_max_bytes)?;
    }
    Ok(Ok(trimmed.more))
}

/// The result of one kind of trimming.
struct TrimOutcome {
    /// It deleted events, or examined as many as one call may.
    did_work: bool,
    more: MoreWork,
}

/// A part of the history that is deleted in its own order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HistoryPart {
    Processed,
    Discarded,
}

impl HistoryPart {
    fn of(self) -> fn(&mut LaneTotal) -> &mut Tally {
        match self {
            Self::Processed => |lane| &mut lane.processed,
            Self::Discarded => |lane| &mut lane.discarded,
        }
    }

    /// Selects the oldest events after a place.
    fn oldest(self) -> &'static str {
        match self {
            Self::Processed => {
                "SELECT number, lane, place, coalesce(ended_at, 0) FROM event INDEXED BY processed \
                 WHERE state = 3 AND place > ?1 ORDER BY place LIMIT ?2"
            }
            Self::Discarded => {
                "SELECT number, lane, place, coalesce(ended_at, 0) FROM event INDEXED BY discarded \
                 WHERE state = 5 AND place > ?1 ORDER BY place LIMIT ?2"
            }
        }
    }
}

/// Deletes the oldest events that exceed the age limit.
fn trim_by_age(step: &mut WriteContext<'_>, part: HistoryPart, retention_ms: u64) -> rusqlite::Result<TrimOutcome> {
    let kept_since_ms = step.now_ms.saturating_sub(i64::try_from(retention_ms).unwrap_or(i64::MAX));
    let mut past = Vec::new();
    {
        let mut oldest = step.db.prepare_cached(part.oldest())?;
        let mut rows = oldest.query((i64::MIN, MAX_DELETED))?;
        while let Some(row) = rows.next()? {
            if row.get::<_, i64>(3)? >= kept_since_ms {
                break;
            }
            past.push(RetainedEvent { number: row.get(0)?, lane: row.get(1)?, place: row.get(2)? });
        }
    }
    for kept in &past {
        delete_event(step, part, kept)?;
    }
    // The other limits may still be exceeded.
    Ok(TrimOutcome { did_work: !past.is_empty(), more: !past.is_empty() })
}

/// The measure of the history that a limit applies to.
#[derive(Clone, Copy)]
enum RetentionMeasure {
    ProcessedEvents,
    Bytes,
}

impl RetentionMeasure {
    fn of_all(self, step: &WriteContext<'_>) -> u64 {
        self.piles(step).map(|pile| pile.size).sum()
    }

    /// The parts of the history that the limit applies to, lane by lane.
    fn piles(self, step: &WriteContext<'_>) -> impl Iterator<Item = HistoryPile> {
        (1..).zip(&step.totals.lanes).flat_map(move |(lane, total)| {
            let LaneTotal { processed, discarded, .. } = *total;
            let pile = |part, tally: Tally, size| HistoryPile { size, lane, part, trimmed_to: tally.trimmed_to };
            match self {
                Self::ProcessedEvents => vec![pile(HistoryPart::Processed, processed, processed.events)],
                Self::Bytes => vec![
                    pile(HistoryPart::Processed, processed, processed.bytes),
                    pile(HistoryPart::Discarded, discarded, discarded.bytes),
                ],
            }
        })
    }
}

/// The processed or the discarded events of one lane.
struct HistoryPile {
    size: u64,
    lane: i64,
    part: HistoryPart,
    trimmed_to: i64,
}

/// Deletes the oldest events of the largest pile, so that no plugin displaces the history of another. Piles of about the
/// same size take turns.
fn trim_excess(step: &mut WriteContext<'_>, measure: RetentionMeasure, most: u64) -> rusqlite::Result<TrimOutcome> {
    let excess = measure.of_all(step).saturating_sub(most);
    let mut piles: Vec<HistoryPile> = measure.piles(step).collect();
    piles.sort_by_key(|pile| Reverse(pile.size));
    let Some(pile) = piles.first().filter(|_| excess > 0) else {
        return Ok(TrimOutcome { did_work: false, more: false });
    };
    let lead = pile.size - piles.get(1).map_or(0, |next| next.size);
    let wanted = excess.min(lead.max(pile.size.div_ceil(TURN_SHARE)));
    let (mut past, mut looked_at, mut last) = (Vec::new(), 0, pile.trimmed_to);
    {
        let mut oldest = step.db.prepare_cached(pile.part.oldest())?;
        let mut rows = oldest.query((pile.trimmed_to, MAX_EXAMINED))?;
        while past.len() < MAX_DELETED as usize
            && let Some(row) = rows.next()?
        {
            looked_at += 1;
            let kept = RetainedEvent { number: row.get(0)?, lane: row.get(1)?, place: row.get(2)? };
            last = kept.place;
            if kept.lane == pile.lane {
                past.push(kept);
            }
        }
    }
    let (mut removed, mut taken) = (0, 0);
    for kept in &past {
        if taken >= wanted {
            last = past[removed - 1].place;
            break;
        }
        let size_bytes = delete_event(step, pile.part, kept)?;
        removed += 1;
        taken += match measure {
            RetentionMeasure::ProcessedEvents => 1,
            RetentionMeasure::Bytes => size_bytes,
        };
    }
    step.totals.set_trimmed_to(pile.lane, pile.part.of(), last);
    let is_cut = looked_at == MAX_EXAMINED;
    Ok(TrimOutcome { did_work: removed > 0 || is_cut, more: is_cut || (removed > 0 && excess > taken) })
}

/// A processed or discarded event.
struct RetainedEvent {
    number: i64,
    lane: i64,
    place: i64,
}

/// Deletes an event and returns its size in bytes.
fn delete_event(step: &mut WriteContext<'_>, part: HistoryPart, kept: &RetainedEvent) -> rusqlite::Result<u64> {
    let story_bytes: u32 = step
        .db
        .prepare_cached(
            "DELETE FROM event WHERE number = ?1 \
             RETURNING coalesce(octet_length(story), 0) + coalesce(octet_length(result), 0)",
        )?
        .query_row([kept.number], |row| row.get(0))?;
    let body_bytes: Option<u32> = step
        .db
        .prepare_cached(
            "DELETE FROM body WHERE number = ?1 RETURNING octet_length(head) + coalesce(octet_length(data), 0)",
        )?
        .query_row([kept.number], |row| row.get(0))
        .optional()?;
    let size_bytes = row_bytes(body_bytes.unwrap_or(0) as usize, story_bytes as usize);
    step.totals.add(kept.lane, part.of(), -1, -signed(size_bytes));
    Ok(size_bytes)
}

/// Deletes idempotency keys whose window is over.
pub(super) fn expire_idempotency_keys(step: &mut WriteContext<'_>) -> rusqlite::Result<Result<MoreWork, Error>> {
    let lanes = {
        let mut delete = step.db.prepare_cached(
            "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency INDEXED BY idempotency_by_until \
             WHERE until <= ?1 ORDER BY until LIMIT ?2) RETURNING lane",
        )?;
        let deleted = delete.query_map((step.now_ms, MAX_DELETED), |row| row.get::<_, i64>(0))?;
        deleted.collect::<Result<Vec<_>, _>>()?
    };
    for lane in &lanes {
        step.totals.add_idempotency_keys(*lane, -1);
    }
    Ok(Ok(lanes.len() as i64 == MAX_DELETED))
}

/// Returns free pages to the disk, if there are many. The disk regains them at the checkpoint after the last piece.
pub(super) fn return_pages(step: &mut WriteContext<'_>) -> rusqlite::Result<Result<MoreWork, Error>> {
    let pragma = |name: &str| step.db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
    let surplus = free - MIN_FREE_PAGES.max(all / FREE_SHARE);
    let (returned, more) = match step.no_room {
        _ if surplus > 0 => (surplus.min(MAX_RETURNED_PAGES), surplus > MAX_RETURNED_PAGES),
        // Moving pages first takes room in the log. Leave that room to settles, and wait until the log was emptied.
        Some(_) if free > 0 && step.totals.is_idle() && step.log_pages < MAX_RETURNED_PAGES_WHEN_FULL => {
            (free.min(MAX_RETURNED_PAGES_WHEN_FULL), false)
        }
        _ => return Ok(Ok(false)),
    };
    let mut vacuum = step.db.prepare(&format!("PRAGMA incremental_vacuum({returned})"))?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    *step.has_shrunk = !more;
    Ok(Ok(more))
}

/// Writes and deletes a test value, to find out whether the disk has room again.
pub(super) fn probe_room(step: &mut WriteContext<'_>) -> rusqlite::Result<Result<(), Error>> {
    const PROBE_BYTES: i64 = 256 * 1024;
    if let Some(shortage) = step.no_room {
        return Ok(Err(Error::NoRoom(shortage.to_owned())));
    }
    step.db.execute("REPLACE INTO store (name, value) VALUES ('room', zeroblob(?1))", [PROBE_BYTES])?;
    step.db.execute("DELETE FROM store WHERE name = 'room'", [])?;
    Ok(Ok(()))
}
