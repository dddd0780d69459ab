//! New events that are written many with one statement.
//!
//! A statement for each row opens its tables and finds their ends anew each time, which is a fifth of what SQLite takes for
//! an append. So rows wait until there are enough of them, or until a job comes that may look at them. That an id is there
//! already is only found out then, when those who appended have been told the contrary: the group is undone, and carried
//! out again with a statement for each row.

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

/// How many rows the statements have, the most first.
const SIZES: [(usize, &str, &str); 3] = [
    (16, into_event!(sixteen!("(?, ?, ?, ?, ?, 0, ?)")), into_body!(sixteen!("(?, ?, ?, ?)"))),
    (8, into_event!(eight!("(?, ?, ?, ?, ?, 0, ?)")), into_body!(eight!("(?, ?, ?, ?)"))),
    (1, into_event!("(?, ?, ?, ?, ?, 0, ?)"), into_body!("(?, ?, ?, ?)")),
];

/// An event to which nothing has happened, on its way to the tables.
pub(super) struct BulkRow {
    pub(super) number: i64,
    pub(super) state: i64,
    pub(super) lane: i64,
    pub(super) place: i64,
    pub(super) body: Arc<BodyColumns>,
}

/// Rows that wait to be written.
#[derive(Default)]
pub(super) struct BulkInsert(Vec<BulkRow>);

impl BulkInsert {
    /// Takes a row, and writes all of them once there are enough for the largest statement.
    ///
    /// # Errors
    /// See [`Self::write`].
    pub(super) fn push(&mut self, row: BulkRow, db: &Connection) -> rusqlite::Result<()> {
        self.0.push(row);
        if self.0.len() == SIZES[0].0 { self.write(db) } else { Ok(()) }
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// Those of the database, and [`rusqlite::Error::StatementChangedRows`] if an id is there already.
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
