//! Reads of plugin state. Writes leave with the outcome of an attempt.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::clock;
use crate::event::{StateStep, StateWrite, StoredValue, Timestamp, add_to_counter, stored_size_bytes};

/// Reads the state of plugins. May be called on any runtime.
#[async_trait]
pub trait StateReader: Send + Sync + 'static {
    /// The value of a key of a plugin, as of the last commit.
    ///
    /// # Errors
    /// The store cannot be read now. The handler gets this as an error and may ask for a retry.
    async fn read(&self, plugin: &str, key: &str) -> Result<StoredValue, StateUnavailable>;
}

/// Why plugin state cannot be read now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StateUnavailable(pub String);

/// The state of one plugin in memory, for use without a store.
#[derive(Debug, Default)]
pub struct MemoryState {
    values: Mutex<BTreeMap<String, MemoryValue>>,
}

#[derive(Clone, Debug)]
struct MemoryValue {
    value: Bytes,
    version: u64,
    until: Option<Timestamp>,
}

impl MemoryState {
    /// Commits the writes of an attempt. The caller must make sure that nothing was committed since the attempt began.
    pub fn commit(&self, step: &StateStep) {
        let mut values = self.values.lock();
        let now = clock::now();
        let version = values.values().map(|kept| kept.version).max().unwrap_or_default() + 1;
        for (key, write) in &step.writes {
            let before = values.remove(key).filter(|kept| kept.until.is_none_or(|until| until > now));
            let (value, until) = match write {
                StateWrite::Delete => continue,
                StateWrite::Set { value, ttl_ms } => (value.clone(), ttl_ms.map(|ttl_ms| now.plus_ms(ttl_ms))),
                StateWrite::Add(delta) => {
                    let sum = add_to_counter(before.as_ref().map(|kept| &kept.value[..]), *delta).unwrap_or_default();
                    (Bytes::from(sum.to_string()), before.and_then(|kept| kept.until))
                }
            };
            values.insert(key.clone(), MemoryValue { value, version, until });
        }
    }
}

#[async_trait]
impl StateReader for MemoryState {
    async fn read(&self, _: &str, key: &str) -> Result<StoredValue, StateUnavailable> {
        let values = self.values.lock();
        let found = values.get(key).filter(|found| found.until.is_none_or(|until| until > clock::now()));
        Ok(StoredValue {
            value: found.map(|found| found.value.clone()),
            version: found.map_or(0, |found| found.version),
            keys: values.len() as u64,
            size_bytes: values.iter().map(|(key, kept)| stored_size_bytes(key, kept.value.len())).sum(),
            room_bytes: None,
        })
    }
}

/// No state, for a component that is only asked for its manifest.
pub(in crate::plugin) struct NoState;

#[async_trait]
impl StateReader for NoState {
    async fn read(&self, _: &str, _: &str) -> Result<StoredValue, StateUnavailable> {
        Err(StateUnavailable("there is no state while a plugin is loaded".into()))
    }
}
