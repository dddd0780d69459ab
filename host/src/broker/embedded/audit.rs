//! The audit: a row for each change, in the step that makes it. Rows are deleted from the oldest on, so numbers have no gaps.

use rusqlite::{Connection, params};

use super::step::{MoreWork, WriteContext};
use crate::broker::audit::MAX_EXAMINED_ENTRIES;
use crate::broker::{AuditEntry, AuditPage, AuditQuery, Error};
use crate::event::Timestamp;

/// The most entries that one call deletes.
const MAX_DELETED: i64 = 500;
/// How far the clock may have been set back. A page that looks for times goes on this far past the first earlier one.
const CLOCK_SLACK_MS: i64 = 24 * 60 * 60 * 1_000;

/// Notes a change; nothing if no person made it.
pub(super) fn write(step: &WriteContext<'_>, note: Option<&str>) -> rusqlite::Result<()> {
    if let Some(note) = note {
        step.db.prepare_cached("INSERT INTO audit (at, note) VALUES (?1, ?2)")?.execute(params![step.now_ms, note])?;
    }
    Ok(())
}

/// Lists entries from before the number `cursor`, newest first.
pub(super) fn list(db: &Connection, query: &AuditQuery, cursor: i64) -> rusqlite::Result<AuditPage> {
    let mut select =
        db.prepare_cached("SELECT number, at, note FROM audit WHERE number < ?1 ORDER BY number DESC LIMIT ?2")?;
    let ends_before_ms = query.since.map_or(i64::MIN, |since| since.unix_ms().saturating_sub(CLOCK_SLACK_MS));
    let mut page = AuditPage::default();
    let mut examined = 0;
    let mut rows = select.query((cursor, MAX_EXAMINED_ENTRIES as i64))?;
    while let Some(row) = rows.next()? {
        let (number, at_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
        if at_ms < ends_before_ms {
            break;
        }
        match AuditEntry::decode(at_ms, row.get_ref(2)?.as_str()?.as_bytes()) {
            Some(entry) if query.matches(&entry) => page.entries.push(entry),
            Some(_) => {}
            None => {
                tracing::error!("an entry of {} in the audit cannot be read", Timestamp::from_unix_ms(at_ms));
            }
        }
        examined += 1;
        if page.entries.len() == query.page_limit() || examined == MAX_EXAMINED_ENTRIES {
            page.next_cursor = Some(number.to_string());
            break;
        }
    }
    Ok(page)
}

/// Deletes the oldest entries that exceed the limits of age or number.
pub(super) fn trim(step: &mut WriteContext<'_>) -> rusqlite::Result<Result<MoreWork, Error>> {
    let retention = step.options.retention;
    let kept_since_ms = step.now_ms.saturating_sub(i64::try_from(retention.audit_ms).unwrap_or(i64::MAX));
    let newest: Option<i64> =
        step.db.prepare_cached("SELECT max(number) FROM audit")?.query_row([], |row| row.get(0))?;
    let excess_to = newest.unwrap_or(0).saturating_sub(i64::try_from(retention.audit_max).unwrap_or(i64::MAX));
    let mut deleted = 0;
    let mut delete_to = None;
    {
        let mut oldest = step.db.prepare_cached("SELECT number, at FROM audit ORDER BY number LIMIT ?1")?;
        let mut rows = oldest.query([MAX_DELETED])?;
        while let Some(row) = rows.next()? {
            let number: i64 = row.get(0)?;
            if number > excess_to && row.get::<_, i64>(1)? >= kept_since_ms {
                break;
            }
            delete_to = Some(number);
            deleted += 1;
        }
    }
    if let Some(delete_to) = delete_to {
        step.db.prepare_cached("DELETE FROM audit WHERE number <= ?1")?.execute([delete_to])?;
    }
    Ok(Ok(deleted == MAX_DELETED))
}
