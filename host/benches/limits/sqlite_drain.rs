//! The limit beneath the embedded store: the same SQLite with two tables, in steps of 500 that are synced.
//!
//! A claim reads the next rows; a settle moves them to the table of what is done, with the payload, in one transaction.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use rusqlite::{Connection, params};

/// Events of a step.
const BATCH: usize = 500;

/// Fills a database in this directory and works it off; events in a second.
pub(super) fn run(directory: &Path, events: usize, payload_bytes: usize) -> Result<f64> {
    let mut db = Connection::open(directory.join("limit.db"))?;
    db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch(
        "CREATE TABLE waiting (number INTEGER PRIMARY KEY, payload BLOB NOT NULL);
         CREATE TABLE done (number INTEGER PRIMARY KEY, payload BLOB NOT NULL, ended INTEGER NOT NULL);",
    )?;
    let payload = vec![b'x'; payload_bytes];
    for first in (0..events).step_by(BATCH) {
        let step = db.transaction()?;
        let mut insert = step.prepare_cached("INSERT INTO waiting (payload) VALUES (?)")?;
        for _ in first..events.min(first + BATCH) {
            insert.execute([&payload])?;
        }
        drop(insert);
        step.commit()?;
    }

    let (mut done, begun) = (0, Instant::now());
    while done < events {
        let rows = claim(&db)?;
        ensure!(!rows.is_empty(), "only {done} of {events} rows were there");
        let step = db.transaction()?;
        let mut delete = step.prepare_cached("DELETE FROM waiting WHERE number = ?")?;
        let mut insert = step.prepare_cached("INSERT INTO done (number, payload, ended) VALUES (?, ?, ?)")?;
        for (number, payload) in &rows {
            delete.execute([number])?;
            insert.execute(params![number, payload, 1])?;
        }
        drop((delete, insert));
        step.commit()?;
        done += rows.len();
    }
    Ok(events as f64 / begun.elapsed().as_secs_f64())
}

fn claim(db: &Connection) -> Result<Vec<(i64, Vec<u8>)>> {
    let mut next = db.prepare_cached("SELECT number, payload FROM waiting ORDER BY number LIMIT ?")?;
    let rows = next.query_map([BATCH as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
