//! The pauses of plugins: one hash, in which a note follows the time of its end.

use async_trait::async_trait;

use super::RedisBroker;
use super::connection::reply;
use crate::broker::pauses::collect_pauses;
use crate::broker::{AuditNote, Error, Lane, MAX_STORED_PAUSES, PauseOutcome, PauseStore, PluginPause};

#[async_trait]
impl PauseStore for RedisBroker {
    async fn read_pauses(&self) -> Result<Vec<PluginPause>, Error> {
        let client = &self.client;
        let mut call = client.script_call(&client.scripts.pauses_read);
        call.push_key(client.keys.pauses());
        let mut rows = Vec::new();
        for (plugin, note) in reply::pairs(client.call(&call).await?)? {
            rows.push((reply::text(plugin)?, reply::text(note)?));
        }
        Ok(collect_pauses(rows))
    }

    async fn write_pause(&self, pause: PluginPause, audit: Option<&AuditNote>) -> Result<PauseOutcome, Error> {
        let note = serde_json::to_string(&pause.note).map_err(|error| Error::Misconfigured(error.to_string()))?;
        let until_ms = pause.note.until.map_or(0, |until| until.unix_ms());
        match self.change_pause(&pause.plugin, until_ms, &note, audit).await?.as_str() {
            "FULL" => Ok(PauseOutcome::Full),
            _ => Ok(PauseOutcome::Done),
        }
    }

    async fn end_pause(&self, plugin: &Lane, audit: Option<&AuditNote>) -> Result<bool, Error> {
        Ok(self.change_pause(plugin, 0, "", audit).await? == "DONE")
    }
}

impl RedisBroker {
    async fn change_pause(
        &self,
        plugin: &Lane,
        until_ms: i64,
        note: &str,
        audit: Option<&AuditNote>,
    ) -> Result<String, Error> {
        let audit = audit.map(AuditNote::encode).transpose()?;
        let client = &self.client;
        let mut call = client
            .script_call(&client.scripts.pause_write)
            .text(plugin.as_str())
            .number(until_ms)
            .text(note)
            .number(MAX_STORED_PAUSES);
        call.push_key(client.keys.pauses());
        call.push_audit(&client.keys, audit.as_deref());
        Ok(reply::text(client.call(&call).await?)?)
    }
}
