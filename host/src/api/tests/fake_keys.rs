//! A store of keys in memory, and keys to put into it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::fake::FakeBroker;
use crate::api::{ApiState, KeyRing};
use crate::api_key::{ApiKey, ConfiguredKey, KeyId, KeyRights, KeyToken};
use crate::broker::{AuditNote, Error, KeySet, KeyStore, KeyWrite, KeyWriteOutcome, StoredKey};
use crate::event::Timestamp;

/// Keys with their revisions. The version is the number of writes.
#[derive(Default)]
pub(super) struct FakeKeyStore {
    pub(super) state: Mutex<FakeKeyState>,
}

#[derive(Default)]
pub(super) struct FakeKeyState {
    pub(super) keys: BTreeMap<KeyId, (ApiKey, u64)>,
    pub(super) uses: BTreeMap<KeyId, Timestamp>,
    pub(super) writes: u64,
    /// The most keys.
    pub(super) room: Option<usize>,
    pub(super) audit: Vec<AuditNote>,
    /// What the next calls answer.
    pub(super) failure: Option<Error>,
}

#[async_trait]
impl KeyStore for FakeKeyStore {
    async fn read_keys(&self, known: Option<&str>) -> Result<Option<KeySet>, Error> {
        let state = self.state.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let version = state.writes.to_string();
        if known == Some(version.as_str()) {
            return Ok(None);
        }
        let stored = |(id, (key, revision)): (&KeyId, &(ApiKey, u64))| StoredKey {
            key: key.clone(),
            revision: *revision,
            last_used_at: state.uses.get(id).copied(),
        };
        Ok(Some(KeySet { version, keys: state.keys.iter().map(stored).collect(), unreadable: Vec::new() }))
    }

    async fn write_key(&self, write: KeyWrite, audit: Option<&AuditNote>) -> Result<KeyWriteOutcome, Error> {
        let mut state = self.state.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let id = write.key.id.clone();
        if state.keys.get(&id).map(|(_, revision)| *revision) != write.replaces {
            return Ok(KeyWriteOutcome::Changed);
        }
        match &write.deletes {
            Some((deleted, _)) => _ = state.keys.remove(deleted),
            None if write.replaces.is_none() && state.room.is_some_and(|room| state.keys.len() >= room) => {
                return Ok(KeyWriteOutcome::Full);
            }
            None => {}
        }
        state.writes += 1;
        let revision = state.writes;
        state.keys.insert(id, (write.key, revision));
        state.audit.extend(audit.cloned());
        Ok(KeyWriteOutcome::Done)
    }

    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error> {
        self.state.lock().uses.extend(uses);
        Ok(())
    }
}

/// The text of a key with a number.
pub(super) fn token(number: u8) -> KeyToken {
    KeyToken::from_random(&KeyId::from_random([number; 16]), [number; 32])
}

/// The rights that a document describes.
pub(super) fn rights(document: &str) -> KeyRights {
    serde_json::from_str(document).unwrap()
}

/// A key with a number.
pub(super) fn key(number: u8, document: &str) -> ApiKey {
    let now = Timestamp::from_unix_ms(1);
    ApiKey::new(&token(number), format!("key-{number}"), rights(document), now, "test".into())
}

/// An API with these keys in its store, and these in its configuration.
pub(super) async fn with_keys(
    api: ApiState,
    fake: &Arc<FakeBroker>,
    stored: impl IntoIterator<Item = ApiKey>,
    configured: Vec<ConfiguredKey>,
) -> (ApiState, Arc<FakeKeyStore>) {
    let store = Arc::new(FakeKeyStore::default());
    for key in stored {
        let write = KeyWrite { key, replaces: None, deletes: None };
        assert_eq!(store.write_key(write, None).await, Ok(KeyWriteOutcome::Done));
    }
    let keys = Arc::new(KeyRing::new(store.clone(), fake.clone(), configured, false));
    keys.refresh().await.unwrap();
    (ApiState { keys, ..api }, store)
}
