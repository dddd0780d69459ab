//! `state`: keys that are the plugin's own. Reads go to the store once for each key, writes are kept until the commit.
//!
//! What an attempt has read or overwritten must be unchanged at the commit; what it has only counted up need not, though
//! the value has to be read to say what it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::super::ReadState;
use super::Guest;
use super::wit::state::{Error, Host};
use crate::event::limits::MAX_DELAY_MS;
use crate::event::{MAX_STATE_KEY_BYTES, StateStep, StateWrite, Stored, add};

/// What an attempt has seen and written so far.
pub(super) struct Buffer {
    store: Arc<dyn ReadState>,
    operations: u32,
    touched: BTreeMap<String, Touched>,
}

/// A key that was asked for.
struct Touched {
    stored: Stored,
    /// Whether the attempt depends on what it has seen.
    is_expected: bool,
    write: Option<StateWrite>,
}

impl Buffer {
    /// Nothing seen yet.
    pub(super) fn new(store: Arc<dyn ReadState>) -> Self {
        Self { store, operations: 0, touched: BTreeMap::new() }
    }

    /// All of it, if there was anything.
    pub(super) fn into_step(self, plugin: &str) -> Option<StateStep> {
        let mut step = StateStep { plugin: plugin.to_owned(), ..StateStep::default() };
        for (key, touched) in self.touched {
            if touched.is_expected {
                step.expected.push((key.clone(), touched.stored.version));
            }
            step.writes.extend(touched.write.map(|write| (key, write)));
        }
        (!step.expected.is_empty() || !step.writes.is_empty()).then_some(step)
    }
}

impl Touched {
    /// The value as this attempt sees it.
    fn value(&self) -> Option<Bytes> {
        match &self.write {
            None => self.stored.value.clone(),
            Some(StateWrite::Set { value, .. }) => Some(value.clone()),
            Some(StateWrite::Delete) => None,
            Some(StateWrite::Add(delta)) => {
                add(self.stored.value.as_deref(), *delta).ok().map(|sum| Bytes::from(sum.to_string()))
            }
        }
    }

    /// Counts up, and gives the value as this attempt sees it.
    fn add(&mut self, delta: i64) -> Result<i64, String> {
        let sum = add(self.value().as_deref(), delta).map_err(|error| error.to_string())?;
        let text = || Bytes::from(sum.to_string());
        self.write = Some(match self.write.take() {
            None => StateWrite::Add(delta),
            // Both are within what the sum may be, so that this cannot overflow.
            Some(StateWrite::Add(before)) => StateWrite::Add(before.saturating_add(delta)),
            Some(StateWrite::Delete) => StateWrite::Set { value: text(), ttl_ms: None },
            Some(StateWrite::Set { ttl_ms, .. }) => StateWrite::Set { value: text(), ttl_ms },
        });
        Ok(sum)
    }
}

impl Guest {
    /// The key, read if this is the first time that it is asked for.
    async fn touch(&mut self, key: String) -> Result<&mut Touched, Error> {
        let limit = self.surroundings.limits.state_operations;
        self.current.state.operations = self.current.state.operations.saturating_add(1);
        if self.current.state.operations > limit {
            return Err(Error::TooLarge(format!("an attempt asks for its state at most {limit} times")));
        }
        if key.is_empty() || key.len() > MAX_STATE_KEY_BYTES || key.chars().any(char::is_control) {
            let words = format!("a key is 1 to {MAX_STATE_KEY_BYTES} bytes without control characters");
            return Err(Error::Invalid(words));
        }
        if !self.current.state.touched.contains_key(&key) {
            let stored = self.current.state.store.read(&self.surroundings.name, &key).await;
            let stored = stored.map_err(|error| Error::Unavailable(error.to_string()))?;
            let touched = Touched { stored, is_expected: false, write: None };
            self.current.state.touched.insert(key.clone(), touched);
        }
        self.current.state.touched.get_mut(&key).ok_or_else(|| Error::Unavailable("the key was not read".into()))
    }

    /// Whether one more key may be kept, where `touched` keeps nothing yet.
    fn has_room(limit: u64, touched: &Touched) -> Result<(), Error> {
        if touched.value().is_none() && touched.stored.value.is_none() && touched.stored.keys >= limit {
            return Err(Error::TooLarge(format!("the plugin keeps {} keys; it may keep {limit}", touched.stored.keys)));
        }
        Ok(())
    }
}

impl Host for Guest {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        self.output.spend(key.len())?;
        Ok(self.touch(key).await.map(|touched| {
            touched.is_expected = true;
            touched.value().map(Vec::from)
        }))
    }

    async fn set(&mut self, key: String, value: Vec<u8>, ttl_ms: Option<u64>) -> wasmtime::Result<Result<(), Error>> {
        self.output.spend(key.len() + value.len())?;
        let limits = self.surroundings.limits;
        if value.len() as u64 > limits.state_value_bytes {
            let words = format!("{} bytes; a value has at most {}", value.len(), limits.state_value_bytes);
            return Ok(Err(Error::TooLarge(words)));
        }
        if ttl_ms.is_some_and(|ttl_ms| ttl_ms == 0 || ttl_ms > MAX_DELAY_MS) {
            return Ok(Err(Error::Invalid(format!("ttl-ms is 1 to {MAX_DELAY_MS}, a year"))));
        }
        Ok(self.touch(key).await.and_then(|touched| {
            Self::has_room(limits.state_keys, touched)?;
            touched.is_expected = true;
            touched.write = Some(StateWrite::Set { value: value.into(), ttl_ms });
            Ok(())
        }))
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), Error>> {
        self.output.spend(key.len())?;
        Ok(self.touch(key).await.map(|touched| {
            touched.is_expected = true;
            touched.write = Some(StateWrite::Delete);
        }))
    }

    async fn increment(&mut self, key: String, delta: i64) -> wasmtime::Result<Result<i64, Error>> {
        self.output.spend(key.len())?;
        let limit = self.surroundings.limits.state_keys;
        Ok(self.touch(key).await.and_then(|touched| {
            Self::has_room(limit, touched)?;
            touched.add(delta).map_err(Error::Invalid)
        }))
    }
}
