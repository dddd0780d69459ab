//! Gives room back: trims processed events past their retention, forgets idempotency keys past their window, and returns
//! free pages to the disk.
//!
//! Only processed events are trimmed. Each call does a bounded piece of the work, so that it fits between the groups of
//! everybody else and is to be repeated while there is more.

use crate::broker::Error;

use super::writer::Step;

/// The most events or keys that one call removes: more than are settled in one group of the writer, so that history does
/// not grow past what is kept, however fast events end.
const MAX_REMOVED: i64 = 500;
/// The most pages that one call returns.
const MAX_RETURNED_PAGES: i64 = 500;
/// So many free pages are always kept for reuse: 1 MiB.
const MIN_FREE_PAGES: i64 = 256;
/// Pages are returned when more than one in so many is free.
const FREE_PART: i64 = 4;

/// Whether there is more to do at once.
pub(super) type More = bool;

/// Removes the oldest processed events beyond the number or the age that is kept.
pub(super) fn trim(step: &mut Step<'_>) -> rusqlite::Result<Result<More, Error>> {
    let retention = step.options.retention;
    let excess = step.totals.processed_kept.saturating_sub(retention.processed_max);
    let kept_since_ms = step.now_ms.saturating_sub(i64::try_from(retention.processed_ms).unwrap_or(i64::MAX));
    let oldest: Vec<(i64, i64)> = step
        .db
        .prepare_cached(
            "SELECT number, coalesce(ended_at, 0) FROM event INDEXED BY processed WHERE state = 3 \
             ORDER BY place LIMIT ?1",
        )?
        .query_map([MAX_REMOVED], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let is_past = |index: usize, ended_at_ms: i64| (index as u64) < excess || ended_at_ms < kept_since_ms;
    let past: Vec<i64> = oldest
        .into_iter()
        .enumerate()
        .take_while(|(index, (_, ended_at_ms))| is_past(*index, *ended_at_ms))
        .map(|(_, (number, _))| number)
        .collect();
    for number in &past {
        step.db.prepare_cached("DELETE FROM event WHERE number = ?1")?.execute([number])?;
        step.db.prepare_cached("DELETE FROM body WHERE number = ?1")?.execute([number])?;
        step.totals.processed_kept = step.totals.processed_kept.saturating_sub(1);
    }
    Ok(Ok(past.len() as i64 == MAX_REMOVED))
}

/// Forgets idempotency keys whose window is over.
pub(super) fn forget_keys(step: &mut Step<'_>) -> rusqlite::Result<Result<More, Error>> {
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
pub(super) fn return_pages(step: &mut Step<'_>) -> rusqlite::Result<Result<More, Error>> {
    let pragma = |name: &str| step.db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
    let surplus = free - MIN_FREE_PAGES.max(all / FREE_PART);
    if surplus <= 0 {
        return Ok(Ok(false));
    }
    let mut vacuum = step.db.prepare(&format!("PRAGMA incremental_vacuum({})", surplus.min(MAX_RETURNED_PAGES)))?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    *step.has_shrunk = surplus <= MAX_RETURNED_PAGES;
    Ok(Ok(surplus > MAX_RETURNED_PAGES))
}

/// Writes something and removes it again, to see whether there is room.
pub(super) fn try_room(step: &mut Step<'_>) -> rusqlite::Result<Result<(), Error>> {
    const TRIED_BYTES: i64 = 256 * 1024;
    if let Some(shortage) = step.no_room {
        return Ok(Err(Error::NoRoom(shortage.to_owned())));
    }
    step.db.execute("REPLACE INTO store (name, value) VALUES ('room', zeroblob(?1))", [TRIED_BYTES])?;
    step.db.execute("DELETE FROM store WHERE name = 'room'", [])?;
    Ok(Ok(()))
}
