//! Plugin state. Readers read it beside the writer; the step that settles a delivery writes it.
//!
//! A state key past its time reads as absent. Its row stays until [`expire`] deletes it, so the count of keys is the
//! number of rows.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use crate::broker::lane_bytes::shrinking_share;
use crate::broker::{Error, ExportedState};
use crate::event::{StateChanges, StateWrite, StoredValue, Timestamp, add_to_counter, stored_size_bytes};

use super::audit;
use super::columns::{UnreadableRow, state_checksum};
use super::step::{MoreWork, WriteContext};

/// The most keys that one call deletes.
const MAX_DELETED: i64 = 250;

/// The row of a state key that has not expired.
struct StateRow {
    version: i64,
    until: Option<i64>,
    value: Vec<u8>,
    checksum: i64,
}

/// Reads the value of a state key.
///
/// # Errors
/// The inner one says that the row is damaged.
pub(super) fn read(
    db: &Connection,
    plugin: &str,
    key: &str,
    now_ms: i64,
) -> rusqlite::Result<Result<StoredValue, UnreadableRow>> {
    let space: Option<(i64, u64, u64)> = db
        .prepare_cached("SELECT number, keys, bytes FROM state_space WHERE plugin = ?1")?
        .query_row([plugin], |row| {
            let count = |column| row.get(column).map(|n: i64| u64::try_from(n).unwrap_or_default());
            Ok((row.get(0)?, count(1)?, count(2)?))
        })
        .optional()?;
    let Some((space, keys, size_bytes)) = space else { return Ok(Ok(StoredValue::default())) };
    let absent = StoredValue { keys, size_bytes, ..StoredValue::default() };
    Ok(Ok(match read_row(db, space, key, now_ms)? {
        None => absent,
        Some(row) if i64::from(state_checksum(plugin, key, &row.value)) != row.checksum => {
            return Ok(Err(UnreadableRow::new("the checksum of the plugin's state does not match")));
        }
        Some(row) => StoredValue {
            value: Some(Bytes::from(row.value)),
            version: u64::try_from(row.version).unwrap_or_default(),
            ..absent
        },
    }))
}

/// The most bytes that one plugin may keep now, where `share_bytes` is what one may take of the store.
pub(super) fn room_bytes(db: &Connection, share_bytes: Option<u64>) -> rusqlite::Result<Option<u64>> {
    let Some(share_bytes) = share_bytes else { return Ok(None) };
    let (plugins, kept_bytes): (i64, i64) = db
        .prepare_cached("SELECT count(*), coalesce(sum(bytes), 0) FROM state_space WHERE bytes > 0")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Some(shrinking_share(share_bytes, kept_bytes.unsigned_abs(), plugins.unsigned_abs())))
}

/// Whether the state that a handler read is unchanged, and its increments are possible.
pub(super) fn can_apply(step: &WriteContext<'_>, state: &StateChanges) -> rusqlite::Result<bool> {
    let space = space_of(step.db, &state.plugin)?;
    let row_of = |key: &str| match space {
        None => Ok(None),
        Some(space) => read_row(step.db, space, key, step.now_ms),
    };
    for (key, version) in &state.expected {
        if row_of(key)?.map_or(0, |row| row.version) != i64::try_from(*version).unwrap_or(i64::MAX) {
            return Ok(false);
        }
    }
    for (key, write) in &state.writes {
        if let StateWrite::Add(delta) = write
            && add_to_counter(row_of(key)?.as_ref().map(|row| &row.value[..]), *delta).is_err()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Applies the writes of a handler, after [`can_apply`] returned true.
pub(super) fn apply(step: &mut WriteContext<'_>, state: &StateChanges) -> rusqlite::Result<()> {
    if state.writes.is_empty() {
        return Ok(());
    }
    let space = ensure_space(step, &state.plugin)?;
    for (key, write) in &state.writes {
        match write {
            StateWrite::Delete => delete_key(step, space, key)?,
            StateWrite::Set { value, ttl_ms } => {
                let until = ttl_ms.map(|ttl_ms| step.now_ms.saturating_add_unsigned(ttl_ms));
                put_value(step, (space, &state.plugin), key, value, until)?;
            }
            StateWrite::Add(delta) => {
                let before = read_row(step.db, space, key, step.now_ms)?;
                let sum = add_to_counter(before.as_ref().map(|row| &row.value[..]), *delta).unwrap_or_default();
                put_value(
                    step,
                    (space, &state.plugin),
                    key,
                    sum.to_string().as_bytes(),
                    before.and_then(|row| row.until),
                )?;
            }
        }
    }
    Ok(())
}

/// Deletes expired keys.
pub(super) fn expire(step: &mut WriteContext<'_>) -> rusqlite::Result<Result<MoreWork, Error>> {
    let expired: Vec<(i64, String)> = step
        .db
        .prepare_cached(
            "SELECT space, key FROM state INDEXED BY state_by_until WHERE until <= ?1 ORDER BY until LIMIT ?2",
        )?
        .query_map((step.now_ms, MAX_DELETED), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (space, key) in &expired {
        delete_key(step, *space, key)?;
    }
    Ok(Ok(expired.len() as i64 == MAX_DELETED))
}

/// Writes a value from another store, unless the key has one. Returns whether it was written.
pub(super) fn restore(step: &mut WriteContext<'_>, exported: &ExportedState) -> rusqlite::Result<bool> {
    let ExportedState { plugin, key, value, until } = exported;
    let space = ensure_space(step, plugin)?;
    if read_row(step.db, space, key, step.now_ms)?.is_some() {
        return Ok(false);
    }
    put_value(step, (space, plugin), key, value, until.map(Timestamp::unix_ms))?;
    Ok(true)
}

fn space_of(db: &Connection, plugin: &str) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT number FROM state_space WHERE plugin = ?1")?
        .query_row([plugin], |row| row.get(0))
        .optional()
}

fn ensure_space(step: &WriteContext<'_>, plugin: &str) -> rusqlite::Result<i64> {
    match space_of(step.db, plugin)? {
        Some(space) => Ok(space),
        None => step
            .db
            .prepare_cached("INSERT INTO state_space (plugin, keys, bytes) VALUES (?1, 0, 0) RETURNING number")?
            .query_row([plugin], |row| row.get(0)),
    }
}

fn read_row(db: &Connection, space: i64, key: &str, now_ms: i64) -> rusqlite::Result<Option<StateRow>> {
    db.prepare_cached(
        "SELECT version, until, value, checksum FROM state WHERE space = ?1 AND key = ?2 \
         AND (until IS NULL OR until > ?3)",
    )?
    .query_row((space, key, now_ms), |row| {
        Ok(StateRow { version: row.get(0)?, until: row.get(1)?, value: row.get(2)?, checksum: row.get(3)? })
    })
    .optional()
}

fn put_value(
    step: &mut WriteContext<'_>,
    (space, plugin): (i64, &str),
    key: &str,
    value: &[u8],
    until: Option<i64>,
) -> rusqlite::Result<()> {
    let (version, checksum) = (step.totals.take_number(), state_checksum(plugin, key, value));
    let before: Option<i64> = step
        .db
        .prepare_cached("SELECT octet_length(value) FROM state WHERE space = ?1 AND key = ?2")?
        .query_row((space, key), |row| row.get(0))
        .optional()?;
    let value_bytes = i64::try_from(value.len()).unwrap_or(i64::MAX);
    match before {
        Some(before_bytes) => {
            step.db
                .prepare_cached(
                    "UPDATE state SET version = ?3, until = ?4, value = ?5, checksum = ?6 WHERE space = ?1 AND key = ?2",
                )?
                .execute(params![space, key, version, until, value, checksum])?;
            add_to_counts(step, space, 0, value_bytes - before_bytes)
        }
        None => {
            step.db
                .prepare_cached(
                    "INSERT INTO state (space, key, version, until, value, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![space, key, version, until, value, checksum])?;
            add_to_counts(step, space, 1, key_bytes(key, value_bytes))
        }
    }
}

fn delete_key(step: &mut WriteContext<'_>, space: i64, key: &str) -> rusqlite::Result<()> {
    let deleted: Option<i64> = step
        .db
        .prepare_cached("DELETE FROM state WHERE space = ?1 AND key = ?2 RETURNING octet_length(value)")?
        .query_row((space, key), |row| row.get(0))
        .optional()?;
    deleted.map_or(Ok(()), |value_bytes| add_to_counts(step, space, -1, -key_bytes(key, value_bytes)))
}

/// The bytes that a key and its value count for.
fn key_bytes(key: &str, value_bytes: i64) -> i64 {
    i64::try_from(stored_size_bytes(key, usize::try_from(value_bytes).unwrap_or_default())).unwrap_or(i64::MAX)
}

/// Deletes some keys of a plugin. Returns their number, 0 when none was left.
pub(super) fn remove(
    step: &mut WriteContext<'_>,
    plugin: &str,
    audit: Option<&str>,
) -> rusqlite::Result<Result<u64, Error>> {
    let Some(space) = space_of(step.db, plugin)? else { return Ok(Ok(0)) };
    let keys: Vec<String> = step
        .db
        .prepare_cached("SELECT key FROM state WHERE space = ?1 LIMIT ?2")?
        .query_map((space, MAX_DELETED), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for key in &keys {
        delete_key(step, space, key)?;
    }
    if keys.is_empty() {
        step.db.execute("UPDATE state_space SET keys = 0, bytes = 0 WHERE number = ?1", [space])?;
    }
    if !keys.is_empty() {
        audit::write(step, audit)?;
    }
    Ok(Ok(keys.len() as u64))
}

fn add_to_counts(step: &mut WriteContext<'_>, space: i64, more: i64, more_bytes: i64) -> rusqlite::Result<()> {
    if more == 0 && more_bytes == 0 {
        return Ok(());
    }
    step.db
        .prepare_cached(
            "UPDATE state_space SET keys = max(0, keys + ?2), bytes = max(0, bytes + ?3) WHERE number = ?1",
        )?
        .execute((space, more, more_bytes))?;
    step.totals.state_keys = step.totals.state_keys.saturating_add_signed(more);
    Ok(())
}
