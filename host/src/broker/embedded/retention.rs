//! Gives room back: trims processed events past their retention, forgets idempotency keys past their window, and returns
//! free pages to the disk.
//!
//! Only processed events are trimmed. Each call does a bounded piece of the work, so that it fits between the groups of
//! everybody else and is to be repeated while there is more.

use rusqlite::OptionalExtension;

use crate::broker::Error;

use super::append::{ROW_BYTES, signed};
use super::totals::LaneTotal;
use super::writer::WriteStep;

/// The most events or keys that one call removes: more than are settled in one group of the writer, so that history does
/// not grow past what is kept, however fast events end.
const MAX_REMOVED: i64 = 500;
/// The most processed events that one call looks at for those of one lane.
const MAX_LOOKED_AT: i64 = 5_000;
/// Of a lane that has no more than others, one in so many goes at a time.
const TURN_PART: u64 = 10;
/// The most pages that one call returns.
const MAX_RETURNED_PAGES: i64 = 500;
/// The most of few that are returned while there is no room on the disk, where nothing is worked off and the log has less.
const MAX_RETURNED_PAGES_IN_NEED: i64 = 100;
/// So many free pages are always kept for reuse: 1 MiB.
const MIN_FREE_PAGES: i64 = 256;
/// Pages are returned when more than one in so many is free.
const FREE_PART: i64 = 4;

/// Whether there is more to do at once.
pub(super) type MoreWork = bool;

/// Removes processed events beyond the age, the number or the bytes that are kept. While there is no room on the disk,
/// history gives way to what was accepted, a tenth at a time.
pub(super) fn trim(step: &mut WriteStep<'_>) -> rusqlite::Result<Result<MoreWork, Error>> {
    let retention = step.options.retention;
    // One of them in one step: what a step writes has to fit into the log, also when the disk is full.
    let mut trimmed = trim_by_age(step)?;
    if !trimmed.any {
        trimmed = trim_excess(step, RetentionMeasure::Events, retention.processed_max)?;
    }
    if !trimmed.any {
        trimmed = trim_excess(step, RetentionMeasure::Bytes, retention.processed_max_bytes)?;
    }
    if !trimmed.any && step.no_room.is_some() {
        let kept_bytes = RetentionMeasure::Bytes.of_all(step);
        trim_excess(step, RetentionMeasure::Bytes, kept_bytes - kept_bytes / TURN_PART)?;
        // Whether that made room is seen in the next round.
        trimmed.more = false;
    }
    Ok(Ok(trimmed.more))
}

/// What one step of trimming did.
struct TrimOutcome {
    /// It removed some, or looked at as many as one step may.
    any: bool,
    more: MoreWork,
}

/// Removes the oldest ones that are older than any may be.
fn trim_by_age(step: &mut WriteStep<'_>) -> rusqlite::Result<TrimOutcome> {
    let retention_ms = i64::try_from(step.options.retention.processed_ms).unwrap_or(i64::MAX);
    let kept_since_ms = step.now_ms.saturating_sub(retention_ms);
    let mut past = Vec::new();
    {
        let mut oldest = step.db.prepare_cached(
            "SELECT number, lane, place, coalesce(ended_at, 0) FROM event INDEXED BY processed WHERE state = 3 \
             ORDER BY place LIMIT ?1",
        )?;
        let mut rows = oldest.query([MAX_REMOVED])?;
        while let Some(row) = rows.next()? {
            if row.get::<_, i64>(3)? >= kept_since_ms {
                break;
            }
            past.push(RetainedEvent { number: row.get(0)?, lane: row.get(1)?, place: row.get(2)? });
        }
    }
    for kept in &past {
        remove(step, kept)?;
    }
    // Of those that are left some may be too many.
    Ok(TrimOutcome { any: !past.is_empty(), more: !past.is_empty() })
}

/// By what history is measured.
#[derive(Clone, Copy)]
enum RetentionMeasure {
    Events,
    Bytes,
}

impl RetentionMeasure {
    fn of(self, lane: &LaneTotal) -> u64 {
        match self {
            Self::Events => lane.kept,
            Self::Bytes => lane.kept_bytes,
        }
    }

    fn of_all(self, step: &WriteStep<'_>) -> u64 {
        step.totals.lanes.iter().map(|lane| self.of(lane)).sum()
    }
}

/// Removes the oldest ones of the lane that has the most, so that no plugin pushes the history of another out. Where several
/// lanes have about as much, they take turns.
fn trim_excess(step: &mut WriteStep<'_>, measure: RetentionMeasure, most: u64) -> rusqlite::Result<TrimOutcome> {
    let excess = measure.of_all(step).saturating_sub(most);
    let leader = step.totals.leader(|lane| measure.of(lane)).filter(|_| excess > 0);
    let Some((lane, lead)) = leader else { return Ok(TrimOutcome { any: false, more: false }) };
    let (much, from) = step.totals.lane(lane).map_or((0, 0), |lane| (measure.of(lane), lane.kept_from));
    let wanted = excess.min(lead.max(much.div_ceil(TURN_PART)));
    let (mut past, mut looked_at, mut last) = (Vec::new(), 0, from);
    {
        let mut oldest = step.db.prepare_cached(
            "SELECT number, lane, place FROM event INDEXED BY processed WHERE state = 3 AND place > ?1 \
             ORDER BY place LIMIT ?2",
        )?;
        let mut rows = oldest.query((from, MAX_LOOKED_AT))?;
        while past.len() < MAX_REMOVED as usize
            && let Some(row) = rows.next()?
        {
            looked_at += 1;
            let kept = RetainedEvent { number: row.get(0)?, lane: row.get(1)?, place: row.get(2)? };
            last = kept.place;
            if kept.lane == lane {
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
        let size_bytes = remove(step, kept)?;
        removed += 1;
        taken += match measure {
            RetentionMeasure::Events => 1,
            RetentionMeasure::Bytes => size_bytes,
        };
    }
    step.totals.keeps_from(lane, last);
    let is_cut = looked_at == MAX_LOOKED_AT;
    Ok(TrimOutcome { any: removed > 0 || is_cut, more: is_cut || (removed > 0 && excess > taken) })
}

/// A processed event that is kept.
struct RetainedEvent {
    number: i64,
    lane: i64,
    place: i64,
}

/// Removes one, and says how much it took.
fn remove(step: &mut WriteStep<'_>, kept: &RetainedEvent) -> rusqlite::Result<u64> {
    let story_bytes: i64 = step
        .db
        .prepare_cached(
            "DELETE FROM event WHERE number = ?1 \
             RETURNING coalesce(octet_length(story), 0) + coalesce(octet_length(result), 0)",
        )?
        .query_row([kept.number], |row| row.get(0))?;
    let data_bytes: Option<i64> = step
        .db
        .prepare_cached("DELETE FROM body WHERE number = ?1 RETURNING coalesce(octet_length(data), 0)")?
        .query_row([kept.number], |row| row.get(0))
        .optional()?;
    let size_bytes = story_bytes.saturating_add(data_bytes.unwrap_or(0)).saturating_add(signed(ROW_BYTES));
    step.totals.kept(kept.lane, -1, -size_bytes);
    Ok(u64::try_from(size_bytes).unwrap_or_default())
}

/// Forgets idempotency keys whose window is over.
pub(super) fn forget_keys(step: &mut WriteStep<'_>) -> rusqlite::Result<Result<MoreWork, Error>> {
    let forgotten = step
        .db
        .prepare_cached(
            "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency INDEXED BY idempotency_by_until \
             WHERE until <= ?1 ORDER BY until LIMIT ?2)",
        )?
        .execute((step.now_ms, MAX_REMOVED))?;
    Ok(Ok(forgotten as i64 == MAX_REMOVED))
}

/// Returns free pages to the disk, if there are many. The disk has them when the last piece is done and the log is moved.
pub(super) fn return_pages(step: &mut WriteStep<'_>) -> rusqlite::Result<Result<MoreWork, Error>> {
    let pragma = |name: &str| step.db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
    let surplus = free - MIN_FREE_PAGES.max(all / FREE_PART);
    let (returned, more) = match step.no_room {
        _ if surplus > 0 => (surplus.min(MAX_RETURNED_PAGES), surplus > MAX_RETURNED_PAGES),
        // Moving pages takes room in the log first: not what is needed to work off, and not before the log was emptied.
        Some(_) if free > 0 && step.totals.is_idle() && step.log_pages < MAX_RETURNED_PAGES_IN_NEED => {
            (free.min(MAX_RETURNED_PAGES_IN_NEED), false)
        }
        _ => return Ok(Ok(false)),
    };
    let mut vacuum = step.db.prepare(&format!("PRAGMA incremental_vacuum({returned})"))?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    *step.has_shrunk = !more;
    Ok(Ok(more))
}

/// Writes something and removes it again, to see whether there is room.
pub(super) fn try_room(step: &mut WriteStep<'_>) -> rusqlite::Result<Result<(), Error>> {
    const TRIED_BYTES: i64 = 256 * 1024;
    if let Some(shortage) = step.no_room {
        return Ok(Err(Error::NoRoom(shortage.to_owned())));
    }
    step.db.execute("REPLACE INTO store (name, value) VALUES ('room', zeroblob(?1))", [TRIED_BYTES])?;
    step.db.execute("DELETE FROM store WHERE name = 'room'", [])?;
    Ok(Ok(()))
}
