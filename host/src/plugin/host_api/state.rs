//! `state`: the plugin's own keys.

use super::bindings::eventstream::plugin::state::{Error, Host};
use super::guest::GuestState;
use super::state_buffer::TouchedKey;
use crate::event::limits::MAX_DELAY_MS;
use crate::event::{MAX_STATE_KEY_BYTES, StateWrite};

impl GuestState {
    /// Gives a key of the buffer, read from the store at its first use.
    async fn touch(&mut self, key: String) -> Result<&mut TouchedKey, Error> {
        let limit = self.context.limits.state_operations;
        self.current.state.operations = self.current.state.operations.saturating_add(1);
        if self.current.state.operations > limit {
            return Err(Error::TooLarge(format!("an attempt may use its state at most {limit} times")));
        }
        if key.is_empty() || key.len() > MAX_STATE_KEY_BYTES || key.chars().any(char::is_control) {
            let words = format!("a key is 1 to {MAX_STATE_KEY_BYTES} bytes without control characters");
            return Err(Error::Invalid(words));
        }
        if !self.current.state.touched.contains_key(&key) {
            let stored = self.current.state.store.read(&self.context.name, &key).await;
            let stored = stored.map_err(|error| Error::Unavailable(error.to_string()))?;
            let touched = TouchedKey { stored, is_expected: false, write: None };
            self.current.state.touched.insert(key.clone(), touched);
        }
        self.current.state.touched.get_mut(&key).ok_or_else(|| Error::Unavailable("the key was not read".into()))
    }

    /// Checks that the plugin may keep one more key, if `touched` is a new one.
    fn check_key_count(limit: u64, touched: &TouchedKey) -> Result<(), Error> {
        if touched.value().is_none() && touched.stored.value.is_none() && touched.stored.keys >= limit {
            return Err(Error::TooLarge(format!("the plugin keeps {} keys; it may keep {limit}", touched.stored.keys)));
        }
        Ok(())
    }
}

impl Host for GuestState {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        self.output.charge(key.len())?;
        Ok(self.touch(key).await.map(|touched| {
            touched.is_expected = true;
            touched.value().map(Vec::from)
        }))
    }

    async fn set(&mut self, key: String, value: Vec<u8>, ttl_ms: Option<u64>) -> wasmtime::Result<Result<(), Error>> {
        self.output.charge(key.len() + value.len())?;
        let limits = self.context.limits;
        if value.len() as u64 > limits.state_value_bytes {
            let words = format!("{} bytes; a value has at most {}", value.len(), limits.state_value_bytes);
            return Ok(Err(Error::TooLarge(words)));
        }
        if ttl_ms.is_some_and(|ttl_ms| ttl_ms == 0 || ttl_ms > MAX_DELAY_MS) {
            return Ok(Err(Error::Invalid(format!("ttl-ms is 1 to {MAX_DELAY_MS}, a year"))));
        }
        Ok(self.touch(key).await.and_then(|touched| {
            Self::check_key_count(limits.state_keys, touched)?;
            touched.is_expected = true;
            touched.write = Some(StateWrite::Set { value: value.into(), ttl_ms });
            Ok(())
        }))
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), Error>> {
        self.output.charge(key.len())?;
        Ok(self.touch(key).await.map(|touched| {
            touched.is_expected = true;
            touched.write = Some(StateWrite::Delete);
        }))
    }

    async fn increment(&mut self, key: String, delta: i64) -> wasmtime::Result<Result<i64, Error>> {
        self.output.charge(key.len())?;
        let limit = self.context.limits.state_keys;
        Ok(self.touch(key).await.and_then(|touched| {
            Self::check_key_count(limit, touched)?;
            touched.increment(delta).map_err(Error::Invalid)
        }))
    }
}
