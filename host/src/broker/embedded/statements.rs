//! The SQL that every event needs.

use rusqlite::{CachedStatement, Connection};

/// Inserts an event, unless its id exists.
const INSERT_EVENT: &str = "INSERT INTO event (number, id, state, lane, place, deliveries, type, checksum, \
    story, result, ended_at, class) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO NOTHING";
/// Inserts the body of an event.
const INSERT_BODY: &str = "INSERT INTO body (number, head, data, checksum) VALUES (?1, ?2, ?3, ?4)";

/// Settles a running event, if the place and delivery count are those of the receipt.
const SETTLE: &str = "UPDATE event SET state = ?4, lane = coalesce(?5, lane), place = ?6, deliveries = 0, \
    settled_place = ?2, settled_deliveries = ?3, ended_at = ?7, class = ?8, checksum = ?9, story = ?10, result = ?11 \
    WHERE number = ?1 AND state = 1 AND place = ?2 AND deliveries = ?3";

/// The statements that every event needs, prepared once for a group of jobs.
///
/// The connection's cache hashes, copies and compares the text of a statement at each use. For statements this small
/// that is a good part of their cost.
pub(super) struct HotStatements<'a> {
    pub(super) insert_event: CachedStatement<'a>,
    pub(super) insert_body: CachedStatement<'a>,
    pub(super) settle: CachedStatement<'a>,
}

impl<'a> HotStatements<'a> {
    /// Prepares the statements.
    pub(super) fn prepare(db: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            insert_event: db.prepare_cached(INSERT_EVENT)?,
            insert_body: db.prepare_cached(INSERT_BODY)?,
            settle: db.prepare_cached(SETTLE)?,
        })
    }
}
