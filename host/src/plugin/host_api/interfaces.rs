//! The interfaces of `wit/` that a guest imports: `config`, `secrets`, `delivery`, `log`, `publisher` and `state`.
//!
//! All that a guest passes is counted first. A wrong argument gets an error as its answer.

use super::bindings::eventstream::plugin::{config, delivery, log, publisher, secrets, state, types};
use super::guest::InstanceHost;
use super::publish_buffer::size_bytes;
use super::state::TouchedKey;
use crate::event::limits::MAX_DELAY_MS;
use crate::event::{LogLevel, LogLine, MAX_STATE_KEY_BYTES, StateWrite};

impl types::Host for InstanceHost {}

impl config::Host for InstanceHost {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.output.charge(key.len())?;
        Ok(self.context.config.get(&key).cloned())
    }
}

impl secrets::Host for InstanceHost {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.output.charge(key.len())?;
        Ok(self.context.secrets.get(&key).map(str::to_owned))
    }
}

impl delivery::Host for InstanceHost {
    fn attempt(&mut self) -> wasmtime::Result<u32> {
        Ok(self.current.input.attempt)
    }

    fn max_attempts(&mut self) -> wasmtime::Result<u32> {
        Ok(self.context.max_attempts)
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        let remaining = self.current.stopwatch.remaining();
        Ok(u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX))
    }

    fn traceparent(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.current.input.event.extensions.get("traceparent").cloned())
    }

    fn idempotency_key(&mut self) -> wasmtime::Result<String> {
        Ok(self.current.input.event.id.to_string())
    }
}

impl log::Host for InstanceHost {
    fn log(&mut self, level: log::Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        let line = LogLine { level, message, fields };
        self.output.charge(line.size_bytes())?;
        self.output.log(line);
        Ok(())
    }
}

impl publisher::Host for InstanceHost {
    fn publish(&mut self, new: publisher::NewEvent) -> wasmtime::Result<Result<String, publisher::Error>> {
        self.output.charge(size_bytes(&new))?;
        Ok(self.current.publishing.publish(new, &self.context.name, &self.context.limits, &self.current.input.event))
    }
}

impl InstanceHost {
    /// Gives a key of the buffer, read from the store at its first use.
    async fn touch(&mut self, key: String) -> Result<&mut TouchedKey, state::Error> {
        let limit = self.context.limits.state_operations;
        self.current.state.operations = self.current.state.operations.saturating_add(1);
        if self.current.state.operations > limit {
            return Err(state::Error::TooLarge(format!("an attempt may use its state at most {limit} times")));
        }
        if key.is_empty() || key.len() > MAX_STATE_KEY_BYTES || key.chars().any(char::is_control) {
            let words = format!("a key is 1 to {MAX_STATE_KEY_BYTES} bytes without control characters");
            return Err(state::Error::Invalid(words));
        }
        if !self.current.state.touched.contains_key(&key) {
            let stored = self.current.state.store.read(&self.context.name, &key).await;
            let stored = stored.map_err(|error| state::Error::Unavailable(error.to_string()))?;
            let touched = TouchedKey { stored, is_expected: false, write: None };
            self.current.state.touched.insert(key.clone(), touched);
        }
        self.current.state.touched.get_mut(&key).ok_or_else(|| state::Error::Unavailable("the key was not read".into()))
    }

    /// Checks that the plugin may keep one more key, if `touched` is a new one.
    fn check_key_count(limit: u64, touched: &TouchedKey) -> Result<(), state::Error> {
        if touched.value().is_none() && touched.stored.value.is_none() && touched.stored.keys >= limit {
            return Err(state::Error::TooLarge(format!(
                "the plugin keeps {} keys; it may keep {limit}",
                touched.stored.keys
            )));
        }
        Ok(())
    }
}

impl state::Host for InstanceHost {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, state::Error>> {
        self.output.charge(key.len())?;
        Ok(self.touch(key).await.map(|touched| {
            touched.is_expected = true;
            touched.value().map(Vec::from)
        }))
    }

    async fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<(), state::Error>> {
        self.output.charge(key.len() + value.len())?;
        let limits = self.context.limits;
        if value.len() as u64 > limits.state_value_bytes {
            let words = format!("{} bytes; a value has at most {}", value.len(), limits.state_value_bytes);
            return Ok(Err(state::Error::TooLarge(words)));
        }
        if ttl_ms.is_some_and(|ttl_ms| ttl_ms == 0 || ttl_ms > MAX_DELAY_MS) {
            return Ok(Err(state::Error::Invalid(format!("ttl-ms is 1 to {MAX_DELAY_MS}, a year"))));
        }
        Ok(self.touch(key).await.and_then(|touched| {
            Self::check_key_count(limits.state_keys, touched)?;
            touched.is_expected = true;
            touched.write = Some(StateWrite::Set { value: value.into(), ttl_ms });
            Ok(())
        }))
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), state::Error>> {
        self.output.charge(key.len())?;
        Ok(self.touch(key).await.map(|touched| {
            touched.is_expected = true;
            touched.write = Some(StateWrite::Delete);
        }))
    }

    async fn increment(&mut self, key: String, delta: i64) -> wasmtime::Result<Result<i64, state::Error>> {
        self.output.charge(key.len())?;
        let limit = self.context.limits.state_keys;
        Ok(self.touch(key).await.and_then(|touched| {
            Self::check_key_count(limit, touched)?;
            touched.increment(delta).map_err(state::Error::Invalid)
        }))
    }
}
