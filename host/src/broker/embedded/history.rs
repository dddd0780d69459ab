//! Answers what became of events: one by its id, and those that ended, newest first.
//!
//! Reads only, on a connection of its own. A page looks at a bounded number of events, however rare what is asked for is.

use rusqlite::{Connection, OptionalExtension};

use crate::broker::{EndKind, EndedQuery, FoundEvent, MAX_PAGE_BYTES};
use crate::event::{EventId, Timestamp};

use super::columns::{RawColumns, UnreadableRow, record_columns};
use super::state;

/// The most events that are looked at for one page.
const MAX_SCANNED: i64 = 5_000;
/// Processed events stand in the order in which they were settled, by the broker's clock; when they ended is the word of
/// their host. The two differ by the time that a settle had to wait, which is taken to be less than this.
const MAX_SETTLE_MS: i64 = 24 * 60 * 60 * 1_000;

/// What is told of a page before its events are decoded.
#[derive(Debug)]
pub(super) struct HistoryPage {
    pub(super) found: Vec<RawColumns>,
    pub(super) next_cursor: Option<i64>,
}

/// An event as it was found.
#[derive(Debug)]
pub(super) struct EventStanding {
    pub(super) found: RawColumns,
    state: i64,
    pub(super) place: i64,
}

impl EventStanding {
    /// Decodes it.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn told(&self) -> Result<FoundEvent, UnreadableRow> {
        let record = self.found.decode()?;
        let state = state::named(self.state, &record).ok_or_else(|| UnreadableRow::new("its state is none"))?;
        let due = (self.state == state::DUE).then(|| Timestamp::from_unix_ms(self.place));
        Ok(FoundEvent { record, state, due })
    }
}

/// One event in whatever state.
pub(super) fn event(db: &Connection, id: EventId) -> rusqlite::Result<Option<EventStanding>> {
    db.prepare_cached(concat!(
        "SELECT e.state, e.place, ",
        record_columns!(),
        " FROM event AS e JOIN body AS b ON b.number = e.number WHERE e.id = ?1"
    ))?
    .query_row([id.as_bytes()], |row| {
        Ok(EventStanding { state: row.get(0)?, place: row.get(1)?, found: RawColumns::read(row, 2)? })
    })
    .optional()
}

/// A page of events that ended, newest first, from before `cursor`.
pub(super) fn ended(db: &Connection, query: &EndedQuery, cursor: i64) -> rusqlite::Result<HistoryPage> {
    // One state of the database for the whole page.
    let _snapshot = db.unchecked_transaction()?;
    let mut scan = db.prepare_cached(match query.ending {
        EndKind::Processed => {
            "SELECT number, place, type, class, coalesce(ended_at, 0) FROM event INDEXED BY processed \
             WHERE state = 3 AND place < ?1 ORDER BY place DESC LIMIT ?2"
        }
        EndKind::Failed => {
            "SELECT number, place, type, class, coalesce(ended_at, 0) FROM event INDEXED BY failed \
             WHERE state = 4 AND place < ?1 ORDER BY place DESC LIMIT ?2"
        }
    })?;
    let since_ms = query.since.map_or(i64::MIN, Timestamp::unix_ms);
    let until_ms = query.until.map_or(i64::MAX, Timestamp::unix_ms);
    let limit = query.limit.clamp(1, 1_000);
    let (mut found, mut size_bytes) = (Vec::new(), 0);
    let mut scanned = 0;
    let mut rows = scan.query((cursor, MAX_SCANNED))?;
    while let Some(row) = rows.next()? {
        let (number, place): (i64, i64) = (row.get(0)?, row.get(1)?);
        let ended_at_ms: i64 = row.get(4)?;
        // Failed events may have been imported long after they ended, so that none says anything of those before it.
        if query.ending == EndKind::Processed && ended_at_ms < since_ms.saturating_sub(MAX_SETTLE_MS) {
            return Ok(HistoryPage { found, next_cursor: None });
        }
        scanned += 1;
        let is_wanted = (since_ms..until_ms).contains(&ended_at_ms)
            && query.event_type.as_ref().is_none_or(|wanted| row.get_ref(2).is_ok_and(|it| is(it, wanted.as_str())))
            && query.class.is_none_or(|wanted| {
                query.ending == EndKind::Processed || row.get_ref(3).is_ok_and(|it| is(it, wanted.as_str()))
            });
        if is_wanted {
            let fetched = fetch(db, number)?;
            size_bytes += fetched.size_bytes();
            found.push(fetched);
        }
        if found.len() == limit || size_bytes >= MAX_PAGE_BYTES || scanned == MAX_SCANNED {
            return Ok(HistoryPage { found, next_cursor: Some(place) });
        }
    }
    Ok(HistoryPage { found, next_cursor: None })
}

fn is(column: rusqlite::types::ValueRef<'_>, text: &str) -> bool {
    column.as_str().is_ok_and(|column| column == text)
}

fn fetch(db: &Connection, number: i64) -> rusqlite::Result<RawColumns> {
    db.prepare_cached(concat!(
        "SELECT ",
        record_columns!(),
        " FROM event AS e JOIN body AS b ON b.number = e.number WHERE e.number = ?1"
    ))?
    .query_row([number], |row| RawColumns::read(row, 0))
}
