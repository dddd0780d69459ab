//! `delivery`: facts about the current delivery, read-only.

use super::bindings::eventstream::plugin::delivery::Host;
use super::guest::GuestState;

impl Host for GuestState {
    fn attempt(&mut self) -> wasmtime::Result<u32> {
        Ok(self.current.attempt)
    }

    fn max_attempts(&mut self) -> wasmtime::Result<u32> {
        Ok(self.context.max_attempts)
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        let remaining = self.current.stopwatch.remaining();
        Ok(u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX))
    }

    fn traceparent(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.current.event.extensions.get("traceparent").cloned())
    }

    fn idempotency_key(&mut self) -> wasmtime::Result<String> {
        Ok(self.current.event.id.to_string())
    }
}
