//! Where handlers read the state of their plugin; writes leave with the outcome.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::event::{StateStep, StateWrite, StoredValue, Timestamp, add_to_counter, stored_size_bytes};

/// Reads the state of plugins, whoever keeps it. May be asked on any runtime.
#[async_trait]
pub trait StateReader: Send + Sync + 'static {
    /// What a plugin keeps under a key, as of the last commit.
    ///
    /// # Errors
    /// The store cannot be asked now; the handler is told so and may ask to be called again.
    async fn read(&self, plugin: &str, key: &str) -> Result<StoredValue, StateUnavailable>;
}

/// Why state cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StateUnavailable(pub String);

/// The state of one plugin that is used by itself, without a store: gone with the process.
#[derive(Debug, Default)]
pub struct MemoryState {
    keys: Mutex<BTreeMap<String, KeptValues>>,
}

#[derive(Clone, Debug)]
struct KeptValues {
    value: Bytes,
    version: u64,
    until: Option<Timestamp>,
}

impl MemoryState {
    /// Commits what an attempt has written. The caller sees to it that nothing was committed since the attempt began.
    pub fn commit(&self, step: &StateStep) {
        let mut keys = self.keys();
        let now = clock::now();
        let version = keys.values().map(|kept| kept.version).max().unwrap_or_default() + 1;
        for (key, write) in &step.writes {
            let before = keys.remove(key).filter(|kept| kept.until.is_none_or(|until| until > now));
            let (value, until) = match write {
                StateWrite::Delete => continue,
                StateWrite::Set { value, ttl_ms } => (value.clone(), ttl_ms.map(|ttl_ms| now.plus_ms(ttl_ms))),
                StateWrite::Add(delta) => {
                    let sum = add_to_counter(before.as_ref().map(|kept| &kept.value[..]), *delta).unwrap_or_default();
                    (Bytes::from(sum.to_string()), before.and_then(|kept| kept.until))
                }
            };
            keys.insert(key.clone(), KeptValues { value, version, until });
        }
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, KeptValues>> {
        self.keys.lock()
    }
}

#[async_trait]
impl StateReader for MemoryState {
    async fn read(&self, _: &str, key: &str) -> Result<StoredValue, StateUnavailable> {
        let kept = self.keys();
        let found = kept.get(key).filter(|found| found.until.is_none_or(|until| until > clock::now()));
        Ok(StoredValue {
            value: found.map(|found| found.value.clone()),
            version: found.map_or(0, |found| found.version),
            keys: kept.len() as u64,
            size_bytes: kept.iter().map(|(key, kept)| stored_size_bytes(key, kept.value.len())).sum(),
            room_bytes: None,
        })
    }
}

/// For a component that is only asked to describe itself.
pub(in crate::plugin) struct NoState;

#[async_trait]
impl StateReader for NoState {
    async fn read(&self, _: &str, _: &str) -> Result<StoredValue, StateUnavailable> {
        Err(StateUnavailable("there is no state while a plugin is loaded".into()))
    }
}
