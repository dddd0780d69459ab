//! Finds single events, and lists ended events, newest first.
//!
//! It only reads. A page examines a bounded number of events, however few of them the query matches.

use rusqlite::{Connection, OptionalExtension};

use crate::broker::{EndKind, EndedQuery, FoundEvent, Lane, MAX_PAGE_BYTES};
use crate::event::{EventId, Timestamp};

use super::columns::{RawColumns, UnreadableRow, record_columns};
use super::event_state;

/// The most events that one page examines.
const MAX_SCANNED: i64 = 5_000;
/// The longest time between an event's end and its settle. Processed events are in the order of their settles, but
/// their times of end are the worker's. A page that looks for times goes on this far past the first earlier one.
const MAX_SETTLE_DELAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A page whose events are not decoded yet.
#[derive(Debug)]
pub(super) struct HistoryPage {
    pub(super) rows: Vec<RawColumns>,
    pub(super) next_cursor: Option<i64>,
}

/// An event that is not decoded yet.
#[derive(Debug)]
pub(super) struct StoredEvent {
    pub(super) found: RawColumns,
    state: i64,
    pub(super) place: i64,
}

impl StoredEvent {
    /// Decodes the event.
    ///
    /// # Errors
    /// The row is damaged.
    pub(super) fn decode(&self) -> Result<FoundEvent, UnreadableRow> {
        let record = self.found.decode()?;
        let state =
            event_state::event_state(self.state, &record).ok_or_else(|| UnreadableRow::new("its state is unknown"))?;
        let due = (self.state == event_state::DUE).then(|| Timestamp::from_unix_ms(self.place));
        Ok(FoundEvent { record, state, due })
    }
}

/// Finds an event, whatever its state.
pub(super) fn find_event(db: &Connection, id: EventId) -> rusqlite::Result<Option<StoredEvent>> {
    db.prepare_cached(concat!(
        "SELECT e.state, e.place, ",
        record_columns!(),
        " FROM event AS e JOIN body AS b ON b.number = e.number WHERE e.id = ?1"
    ))?
    .query_row([id.as_bytes()], |row| {
        Ok(StoredEvent { state: row.get(0)?, place: row.get(1)?, found: RawColumns::read(row, 2)? })
    })
    .optional()
}

/// Lists ended events from before the place `cursor`, newest first.
pub(super) fn list_ended(db: &Connection, query: &EndedQuery, cursor: i64) -> rusqlite::Result<HistoryPage> {
    // The scan and the fetches read one state of the database.
    let _snapshot = db.unchecked_transaction()?;
    let mut scan = db.prepare_cached(match query.ending {
        EndKind::Processed => {
            "SELECT number, place, type, class, coalesce(ended_at, 0), lane FROM event INDEXED BY processed \
             WHERE state = 3 AND place < ?1 ORDER BY place DESC LIMIT ?2"
        }
        EndKind::Failed => {
            "SELECT number, place, type, class, coalesce(ended_at, 0), lane FROM event INDEXED BY failed \
             WHERE state = 4 AND place < ?1 ORDER BY place DESC LIMIT ?2"
        }
    })?;
    let since_ms = query.since.map_or(i64::MIN, Timestamp::unix_ms);
    let until_ms = query.until.map_or(i64::MAX, Timestamp::unix_ms);
    let lane = match query.lane.as_ref().filter(|_| query.ending == EndKind::Failed) {
        None => None,
        Some(lane) => match find_lane(db, lane)? {
            None => return Ok(HistoryPage { rows: Vec::new(), next_cursor: None }),
            found => found,
        },
    };
    let limit = query.limit.clamp(1, 1_000);
    let (mut found, mut size_bytes) = (Vec::new(), 0);
    let mut scanned = 0;
    let mut rows = scan.query((cursor, MAX_SCANNED))?;
    while let Some(row) = rows.next()? {
        let (number, place): (i64, i64) = (row.get(0)?, row.get(1)?);
        let ended_at_ms: i64 = row.get(4)?;
        // An import may add failed events long after their end, so their places say nothing about their times.
        if query.ending == EndKind::Processed && ended_at_ms < since_ms.saturating_sub(MAX_SETTLE_DELAY_MS) {
            return Ok(HistoryPage { rows: found, next_cursor: None });
        }
        let of_lane: i64 = row.get(5)?;
        scanned += 1;
        let is_wanted = lane.is_none_or(|lane| lane == of_lane)
            && (since_ms..until_ms).contains(&ended_at_ms)
            && query
                .event_type
                .as_ref()
                .is_none_or(|wanted| row.get_ref(2).is_ok_and(|it| equals(it, wanted.as_str())))
            && query.class.is_none_or(|wanted| {
                query.ending == EndKind::Processed || row.get_ref(3).is_ok_and(|it| equals(it, wanted.as_str()))
            });
        if is_wanted {
            let fetched = read_row(db, number)?;
            size_bytes += fetched.size_bytes();
            found.push(fetched);
        }
        if found.len() == limit || size_bytes >= MAX_PAGE_BYTES || scanned == MAX_SCANNED {
            return Ok(HistoryPage { rows: found, next_cursor: Some(place) });
        }
    }
    Ok(HistoryPage { rows: found, next_cursor: None })
}

fn find_lane(db: &Connection, lane: &Lane) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT number FROM lane WHERE name = ?1")?
        .query_row([lane.as_str()], |row| row.get(0))
        .optional()
}

fn equals(column: rusqlite::types::ValueRef<'_>, text: &str) -> bool {
    column.as_str().is_ok_and(|column| column == text)
}

fn read_row(db: &Connection, number: i64) -> rusqlite::Result<RawColumns> {
    db.prepare_cached(concat!(
        "SELECT ",
        record_columns!(),
        " FROM event AS e JOIN body AS b ON b.number = e.number WHERE e.number = ?1"
    ))?
    .query_row([number], |row| RawColumns::read(row, 0))
}
