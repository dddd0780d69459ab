//! The API keys: a row for each. A revision is a number of the store, and the largest one is the version of all.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::step::{CommitMode, WriteContext};
use super::{EmbeddedBroker, audit};
use crate::api_key::KeyId;
use crate::broker::keys::collect_keys;
use crate::broker::{AuditNote, Error, KeySet, KeyStore, KeyWrite, KeyWriteOutcome, MAX_STORED_KEYS};
use crate::event::Timestamp;

/// A key to write, in the form of its row.
struct KeyRow {
    id: String,
    record: String,
    replaces: i64,
    deletes: Option<(String, i64)>,
    audit: Option<String>,
}

#[async_trait]
impl KeyStore for EmbeddedBroker {
    async fn read_keys(&self, known: Option<&str>) -> Result<Option<KeySet>, Error> {
        let known = known.map(str::to_owned);
        self.readers.read(move |db| read(db, known.as_deref())).await
    }

    async fn write_key(&self, write: KeyWrite, audit: Option<&AuditNote>) -> Result<KeyWriteOutcome, Error> {
        let row = KeyRow {
            id: write.key.id.to_string(),
            record: serde_json::to_string(&write.key).map_err(|error| Error::Misconfigured(error.to_string()))?,
            replaces: signed(write.replaces.unwrap_or(0)),
            deletes: write.deletes.map(|(id, revision)| (id.to_string(), signed(revision))),
            audit: audit.map(AuditNote::encode).transpose()?,
        };
        self.writer.run(CommitMode::Synced, move |step| self::write(step, &row).map(Ok)).await
    }

    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error> {
        self.writer.run(CommitMode::Written, move |step| note_uses(step, &uses).map(Ok)).await
    }
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn checksum(id: &str, record: &str) -> i64 {
    crc32fast::hash(format!("{id}\n{record}").as_bytes()).into()
}

fn read(db: &Connection, known: Option<&str>) -> rusqlite::Result<Option<KeySet>> {
    // Both reads are of one moment.
    let _snapshot = db.unchecked_transaction()?;
    let newest: Option<i64> =
        db.prepare_cached("SELECT max(revision) FROM api_key")?.query_row([], |row| row.get(0))?;
    let version = newest.unwrap_or(0).to_string();
    if known == Some(version.as_str()) {
        return Ok(None);
    }
    let mut select = db.prepare_cached("SELECT id, revision, record, checksum, used_at FROM api_key")?;
    let rows: Vec<(String, i64, String, i64, Option<i64>)> = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?
        .collect::<Result<_, _>>()?;
    Ok(Some(collect_keys(
        version,
        rows.into_iter().map(|(id, revision, record, sum, used_at)| {
            let key = (checksum(&id, &record) == sum).then(|| serde_json::from_str(&record).ok()).flatten();
            let read = key.map(|key| (revision.unsigned_abs(), key));
            (id, read, used_at.map(Timestamp::from_unix_ms))
        }),
    )))
}

fn write(step: &mut WriteContext<'_>, row: &KeyRow) -> rusqlite::Result<KeyWriteOutcome> {
    if revision_of(step.db, &row.id)? != row.replaces {
        return Ok(KeyWriteOutcome::Changed);
    }
    if let Some((id, revision)) = &row.deletes {
        if revision_of(step.db, id)? != *revision {
            return Ok(KeyWriteOutcome::Changed);
        }
    } else if row.replaces == 0 {
        let count: i64 = step.db.query_row("SELECT count(*) FROM api_key", [], |row| row.get(0))?;
        if usize::try_from(count).is_ok_and(|count| count >= MAX_STORED_KEYS) {
            return Ok(KeyWriteOutcome::Full);
        }
    }
    let revision = step.totals.take_number();
    step.db
        .prepare_cached(
            "INSERT INTO api_key (id, revision, record, checksum) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (id) DO UPDATE SET revision = ?2, record = ?3, checksum = ?4",
        )?
        .execute(params![row.id, revision, row.record, checksum(&row.id, &row.record)])?;
    if let Some((id, _)) = &row.deletes {
        step.db.prepare_cached("DELETE FROM api_key WHERE id = ?1")?.execute([id])?;
    }
    audit::write(step, row.audit.as_deref())?;
    Ok(KeyWriteOutcome::Done)
}

/// The revision of a key; 0 if there is none.
fn revision_of(db: &Connection, id: &str) -> rusqlite::Result<i64> {
    let revision = db
        .prepare_cached("SELECT revision FROM api_key WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(revision.unwrap_or(0))
}

fn note_uses(step: &WriteContext<'_>, uses: &[(KeyId, Timestamp)]) -> rusqlite::Result<()> {
    let mut update =
        step.db.prepare_cached("UPDATE api_key SET used_at = ?2 WHERE id = ?1 AND coalesce(used_at, 0) < ?2")?;
    for (id, at) in uses {
        update.execute((id.as_str(), at.unix_ms()))?;
    }
    Ok(())
}
