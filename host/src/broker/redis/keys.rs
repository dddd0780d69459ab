//! The API keys: one hash, with each key behind its revision and with the version of all. Another hash has their last uses.
//!
//! A revision is a time of the server's clock, or one more than the last. So a store that fell back to an older copy does not
//! give a number again. The version names the epoch as well: after a loss every host reads the keys anew.

use std::collections::HashMap;

use async_trait::async_trait;

use super::RedisBroker;
use super::connection::reply;
use crate::api_key::{ApiKey, KeyId};
use crate::broker::keys::collect_keys;
use crate::broker::{AuditNote, Error, KeySet, KeyStore, KeyWrite, KeyWriteOutcome, MAX_STORED_KEYS};
use crate::event::Timestamp;

/// The field with the version. No id is as short.
const VERSION: &str = "version";

#[async_trait]
impl KeyStore for RedisBroker {
    async fn read_keys(&self, known: Option<&str>) -> Result<Option<KeySet>, Error> {
        let client = &self.client;
        let mut call = client.script_call(&client.scripts.keys_read).text(known.unwrap_or_default());
        call.push_key(client.keys.api_keys());
        call.push_key(client.keys.api_key_uses());
        let [version, rows, uses] = reply::tuple(client.call(&call).await?)?;
        let version = reply::text(version)?;
        if known == Some(version.as_str()) {
            return Ok(None);
        }
        let mut used = HashMap::new();
        for (id, at_ms) in reply::pairs(uses)? {
            used.insert(reply::text(id)?, Timestamp::from_unix_ms(reply::int(&at_ms)?));
        }
        let mut read = Vec::new();
        for (id, raw) in reply::pairs(rows)? {
            let (id, raw) = (reply::text(id)?, reply::bytes(raw)?.unwrap_or_default());
            if id != VERSION {
                let last_used_at = used.get(&id).copied();
                read.push((id, parse_row(&raw), last_used_at));
            }
        }
        let set = collect_keys(version, read);
        if !set.is_empty() {
            client.note_keys();
        }
        Ok(Some(set))
    }

    fn had_keys(&self) -> bool {
        self.client.had_keys()
    }

    async fn write_key(&self, write: KeyWrite, audit: Option<&AuditNote>) -> Result<KeyWriteOutcome, Error> {
        let client = &self.client;
        let record = serde_json::to_string(&write.key).map_err(|error| Error::Misconfigured(error.to_string()))?;
        let audit = audit.map(AuditNote::encode).transpose()?;
        let (deleted, deleted_revision) =
            write.deletes.as_ref().map_or(("", 0), |(id, revision)| (id.as_str(), *revision));
        let mut call = client
            .script_call(&client.scripts.key_write)
            .text(write.key.id.as_str())
            .number(write.replaces.unwrap_or(0))
            .text(&record)
            .number(MAX_STORED_KEYS)
            .text(deleted)
            .number(deleted_revision);
        call.push_key(client.keys.api_keys());
        call.push_key(client.keys.api_key_uses());
        call.push_audit(&client.keys, audit.as_deref());
        match reply::text(client.call(&call).await?)?.as_str() {
            "DONE" => Ok(KeyWriteOutcome::Done),
            "FULL" => Ok(KeyWriteOutcome::Full),
            _ => Ok(KeyWriteOutcome::Changed),
        }
    }

    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error> {
        let client = &self.client;
        let mut call = client.script_call(&client.scripts.keys_used);
        call.push_key(client.keys.api_keys());
        call.push_key(client.keys.api_key_uses());
        for (id, at) in &uses {
            call.push_text(id.as_str());
            call.push_number(at.unix_ms());
        }
        client.call(&call).await?;
        Ok(())
    }
}

fn parse_row(raw: &[u8]) -> Option<(u64, ApiKey)> {
    let (revision, record) = std::str::from_utf8(raw).ok()?.split_once(' ')?;
    Some((revision.parse().ok()?, serde_json::from_str(record).ok()?))
}
