//! Plugin state in an attempt: what it reads from the store, and what it writes.
//!
//! Each key is read from the store once; writes wait for the commit. Keys that an attempt read or overwrote must be
//! unchanged at the commit. Keys that it only incremented may change.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::clock;
use crate::event::{StateChanges, StateWrite, StoredValue, Timestamp, add_to_counter, stored_size_bytes};

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
    pub fn commit(&self, step: &StateChanges) {
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
pub struct NoState;

#[async_trait]
impl StateReader for NoState {
    async fn read(&self, _: &str, _: &str) -> Result<StoredValue, StateUnavailable> {
        Err(StateUnavailable("there is no state while a plugin is loaded".into()))
    }
}

/// What an attempt has read and written so far.
pub(super) struct StateBuffer {
    pub(super) store: Arc<dyn StateReader>,
    pub(super) operations: u32,
    pub(super) touched: BTreeMap<String, TouchedKey>,
}

/// A key that the attempt used.
pub(super) struct TouchedKey {
    pub(super) stored: StoredValue,
    /// Whether the stored value must be unchanged at the commit.
    pub(super) is_expected: bool,
    pub(super) write: Option<StateWrite>,
}

impl StateBuffer {
    /// An empty buffer that reads from `store`.
    pub(super) fn new(store: Arc<dyn StateReader>) -> Self {
        Self { store, operations: 0, touched: BTreeMap::new() }
    }

    /// The step for the commit; `None` if the attempt used no key.
    ///
    /// # Errors
    /// The plugin would keep more state than it may; the message says so.
    pub(super) fn into_step(self, plugin: &str, limit_bytes: u64) -> Result<Option<StateChanges>, String> {
        self.check_size(plugin, limit_bytes)?;
        let mut step = StateChanges { plugin: plugin.to_owned(), ..StateChanges::default() };
        for (key, touched) in self.touched {
            if touched.is_expected {
                step.expected.push((key.clone(), touched.stored.version));
            }
            step.writes.extend(touched.write.map(|write| (key, write)));
        }
        Ok((!step.expected.is_empty() || !step.writes.is_empty()).then_some(step))
    }

    /// Checks the size of the state after the step. A step that does not make it larger is always accepted.
    fn check_size(&self, plugin: &str, limit_bytes: u64) -> Result<(), String> {
        let kept_bytes = self.touched.values().map(|touched| touched.stored.size_bytes).max().unwrap_or(0);
        let room_bytes = self.touched.values().filter_map(|touched| touched.stored.room_bytes).min();
        let (mut more, mut less) = (0_u64, 0_u64);
        for (key, touched) in self.touched.iter().filter(|(_, touched)| touched.write.is_some()) {
            let size_bytes = |value: Option<Bytes>| value.map_or(0, |value| stored_size_bytes(key, value.len()));
            more = more.saturating_add(size_bytes(touched.value()));
            less = less.saturating_add(size_bytes(touched.stored.value.clone()));
        }
        let wanted_bytes = kept_bytes.saturating_add(more).saturating_sub(less);
        if more <= less || wanted_bytes <= limit_bytes.min(room_bytes.unwrap_or(u64::MAX)) {
            return Ok(());
        }
        Err(match room_bytes.filter(|room_bytes| *room_bytes < limit_bytes) {
            None => format!(
                "the plugin would keep {wanted_bytes} bytes of state; it may keep {limit_bytes} \
                 (plugins.{plugin}.limits.state_bytes)"
            ),
            Some(room_bytes) => format!(
                "the plugin would keep {wanted_bytes} bytes of state; the store has room for {room_bytes} of one plugin: \
                 use a larger disk, or let the plugin keep less"
            ),
        })
    }
}

impl TouchedKey {
    /// The value as this attempt sees it, its own write included.
    pub(super) fn value(&self) -> Option<Bytes> {
        match &self.write {
            None => self.stored.value.clone(),
            Some(StateWrite::Set { value, .. }) => Some(value.clone()),
            Some(StateWrite::Delete) => None,
            Some(StateWrite::Add(delta)) => {
                add_to_counter(self.stored.value.as_deref(), *delta).ok().map(|sum| Bytes::from(sum.to_string()))
            }
        }
    }

    /// Adds to the counter. Returns the value as this attempt sees it.
    pub(super) fn increment(&mut self, delta: i64) -> Result<i64, String> {
        let sum = add_to_counter(self.value().as_deref(), delta).map_err(|error| error.to_string())?;
        let text = || Bytes::from(sum.to_string());
        self.write = Some(match self.write.take() {
            None => StateWrite::Add(delta),
            // Does not overflow: the sum of both was checked above.
            Some(StateWrite::Add(before)) => StateWrite::Add(before.saturating_add(delta)),
            Some(StateWrite::Delete) => StateWrite::Set { value: text(), ttl_ms: None },
            Some(StateWrite::Set { ttl_ms, .. }) => StateWrite::Set { value: text(), ttl_ms },
        });
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step of an attempt that saw `kept` bytes of state and makes these writes: key, size before, size after.
    fn step(kept: u64, room_bytes: Option<u64>, writes: &[(&str, Option<usize>, Option<usize>)]) -> Result<(), String> {
        let mut buffer = StateBuffer::new(Arc::new(NoState));
        for (key, before, after) in writes {
            let value = |size_bytes: usize| Bytes::from(vec![0; size_bytes]);
            let stored = StoredValue { value: before.map(value), version: 1, keys: 1, size_bytes: kept, room_bytes };
            let write = match after {
                Some(size_bytes) => StateWrite::Set { value: value(*size_bytes), ttl_ms: None },
                None => StateWrite::Delete,
            };
            buffer.touched.insert((*key).into(), TouchedKey { stored, is_expected: true, write: Some(write) });
        }
        buffer.into_step("hoarder", 1_000).map(drop)
    }

    #[test]
    fn a_plugin_keeps_no_more_than_its_limit_in_values_and_keys() {
        assert_eq!(step(700, None, &[("k", None, Some(199))]), Ok(()));
        let error = step(700, None, &[("k", None, Some(200))]).unwrap_err();
        assert!(error.contains("1001 bytes") && error.contains("plugins.hoarder.limits.state_bytes"), "{error}");
        let many: Vec<String> = (0..4).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(|key| (key.as_str(), None, Some(0))).collect();
        assert!(step(700, None, &many).is_err(), "small keys take room too");
    }

    #[test]
    fn a_step_that_keeps_less_is_accepted_above_the_limit() {
        assert_eq!(step(5_000, None, &[("k", Some(300), Some(299))]), Ok(()));
        assert_eq!(step(5_000, None, &[("k", Some(300), None)]), Ok(()));
        assert_eq!(step(900, None, &[("old", Some(300), None), ("new", None, Some(300))]), Ok(()));
        assert!(step(5_000, None, &[("k", Some(300), Some(301))]).is_err());
    }

    #[test]
    fn the_room_of_the_store_is_a_limit_too() {
        assert_eq!(step(300, Some(500), &[("k", None, Some(50))]), Ok(()));
        let error = step(300, Some(500), &[("k", None, Some(100))]).unwrap_err();
        assert!(error.contains("the store has room for 500"), "{error}");
    }
}
