//! Bulk insert: writes many new events with one statement.
//!
//! A statement for each row opens its tables and seeks to their ends each time, which is a fifth of SQLite's cost of an
//! append. So rows wait until there are enough of them, or until a job runs that may read events.
//!
//! A duplicate id shows only when the rows are written, and the appends have an answer by then. The insert then fails;
//! the writer rolls the group back and runs it again without bulk.

use std::sync::Arc;

use rusqlite::{Connection, Statement};

use super::columns::{BodyColumns, DataColumn};

macro_rules! eight {
    ($row:literal) => {
        concat!($row, ", ", $row, ", ", $row, ", ", $row, ", ", $row, ", ", $row, ", ", $row, ", ", $row)
    };
}

macro_rules! sixteen {
    ($row:literal) => {
        concat!(eight!($row), ", ", eight!($row))
    };
}

macro_rules! into_event {
    ($rows:expr) => {
        concat!(
            "INSERT INTO event (number, id, state, lane, place, deliveries, type) VALUES ",
            $rows,
            " ON CONFLICT (id) DO NOTHING"
        )
    };
}

macro_rules! into_body {
    ($rows:expr) => {
        concat!("INSERT INTO body (number, head, data, checksum) VALUES ", $rows)
    };
}

/// The statements by their number of rows, largest first.
const SIZES: [(usize, &str, &str); 3] = [
    (16, into_event!(sixteen!("(?, ?, ?, ?, ?, 0, ?)")), into_body!(sixteen!("(?, ?, ?, ?)"))),
    (8, into_event!(eight!("(?, ?, ?, ?, ?, 0, ?)")), into_body!(eight!("(?, ?, ?, ?)"))),
    (1, into_event!("(?, ?, ?, ?, ?, 0, ?)"), into_body!("(?, ?, ?, ?)")),
];

/// The row of a new event without attempts.
pub(super) struct BulkRow {
    pub(super) number: i64,
    pub(super) state: i64,
    pub(super) lane: i64,
    pub(super) place: i64,
    pub(super) body: Arc<BodyColumns>,
}

/// The rows that wait to be written.
#[derive(Default)]
pub(super) struct BulkInsert(Vec<BulkRow>);

impl BulkInsert {
    /// Adds a row, and writes all rows once there are enough for the largest statement.
    ///
    /// # Errors
    /// See [`Self::write`].
    pub(super) fn push(&mut self, row: BulkRow, db: &Connection) -> rusqlite::Result<()> {
        self.0.push(row);
        if self.0.len() == SIZES[0].0 { self.write(db) } else { Ok(()) }
    }

    /// Writes all rows.
    ///
    /// # Errors
    /// Those of the database, and [`rusqlite::Error::StatementChangedRows`] if an id exists already.
    pub(super) fn write(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mut left = self.0.as_slice();
        for (size, into_event, into_body) in SIZES {
            while left.len() >= size {
                let (rows, rest) = left.split_at(size);
                let written = write_events(&mut *db.prepare_cached(into_event)?, rows)?;
                if written != size {
                    return Err(rusqlite::Error::StatementChangedRows(written));
                }
                write_bodies(&mut *db.prepare_cached(into_body)?, rows)?;
                left = rest;
            }
        }
        self.0.clear();
        Ok(())
    }
}

fn write_events(statement: &mut Statement<'_>, rows: &[BulkRow]) -> rusqlite::Result<usize> {
    for (first, BulkRow { number, state, lane, place, body }) in (1..).step_by(6).zip(rows) {
        statement.raw_bind_parameter(first, number)?;
        statement.raw_bind_parameter(first + 1, body.id.as_bytes())?;
        statement.raw_bind_parameter(first + 2, state)?;
        statement.raw_bind_parameter(first + 3, lane)?;
        statement.raw_bind_parameter(first + 4, place)?;
        statement.raw_bind_parameter(first + 5, body.event_type.as_str())?;
    }
    statement.raw_execute()
}

fn write_bodies(statement: &mut Statement<'_>, rows: &[BulkRow]) -> rusqlite::Result<usize> {
    for (first, BulkRow { number, body, .. }) in (1..).step_by(4).zip(rows) {
        statement.raw_bind_parameter(first, number)?;
        statement.raw_bind_parameter(first + 1, &body.head)?;
        statement.raw_bind_parameter(first + 2, DataColumn(body.data.as_ref()))?;
        statement.raw_bind_parameter(first + 3, body.checksum)?;
    }
    statement.raw_execute()
}
