//! The pauses of plugins: a row for each, with its end beside its note.

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::step::{CommitMode, JobKind, WriteContext};
use super::{EmbeddedBroker, audit};
use crate::broker::pauses::collect_pauses;
use crate::broker::{AuditNote, Error, Lane, MAX_STORED_PAUSES, PauseOutcome, PauseStore, PluginPause};
use crate::clock;

#[async_trait]
impl PauseStore for EmbeddedBroker {
    async fn read_pauses(&self) -> Result<Vec<PluginPause>, Error> {
        self.readers.read(move |db| read(db, clock::now().unix_ms())).await
    }

    async fn write_pause(&self, pause: PluginPause, audit: Option<&AuditNote>) -> Result<PauseOutcome, Error> {
        let note = serde_json::to_string(&pause.note).map_err(|error| Error::Misconfigured(error.to_string()))?;
        let audit = audit.map(AuditNote::encode).transpose()?;
        let until_ms = pause.note.until.map(|until| until.unix_ms());
        let work = move |step: &mut WriteContext<'_>| {
            let outcome = write(step, &pause.plugin, until_ms, &note)?;
            if outcome == PauseOutcome::Done {
                audit::write(step, audit.as_deref())?;
            }
            Ok(Ok(outcome))
        };
        self.writer.run(kind(), work).await
    }

    async fn end_pause(&self, plugin: &Lane, audit: Option<&AuditNote>) -> Result<bool, Error> {
        let (plugin, audit) = (plugin.clone(), audit.map(AuditNote::encode).transpose()?);
        let work = move |step: &mut WriteContext<'_>| {
            let ended = end(step, &plugin)?;
            if ended {
                audit::write(step, audit.as_deref())?;
            }
            Ok(Ok(ended))
        };
        self.writer.run(kind(), work).await
    }
}

/// A plugin must be paused at any time, also when the disk is full.
fn kind() -> JobKind {
    JobKind::from(CommitMode::Synced).relieving()
}

fn read(db: &Connection, now_ms: i64) -> rusqlite::Result<Vec<PluginPause>> {
    let mut select = db.prepare_cached("SELECT plugin, note FROM pause WHERE until IS NULL OR until > ?1")?;
    let rows: Vec<(String, String)> =
        select.query_map([now_ms], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    Ok(collect_pauses(rows))
}

fn write(
    step: &mut WriteContext<'_>,
    plugin: &Lane,
    until_ms: Option<i64>,
    note: &str,
) -> rusqlite::Result<PauseOutcome> {
    step.db
        .prepare_cached("DELETE FROM pause WHERE until <= ?1 OR plugin = ?2")?
        .execute((step.now_ms, plugin.as_str()))?;
    let count: i64 = step.db.query_row("SELECT count(*) FROM pause", [], |row| row.get(0))?;
    if usize::try_from(count).is_ok_and(|count| count >= MAX_STORED_PAUSES) {
        return Ok(PauseOutcome::Full);
    }
    step.db.prepare_cached("INSERT INTO pause (plugin, until, note) VALUES (?1, ?2, ?3)")?.execute(params![
        plugin.as_str(),
        until_ms,
        note
    ])?;
    Ok(PauseOutcome::Done)
}

fn end(step: &mut WriteContext<'_>, plugin: &Lane) -> rusqlite::Result<bool> {
    // One that ended by itself is no longer there for anybody.
    let ended = step
        .db
        .prepare_cached("DELETE FROM pause WHERE plugin = ?1 AND (until IS NULL OR until > ?2)")?
        .execute((plugin.as_str(), step.now_ms))?;
    Ok(ended > 0)
}
