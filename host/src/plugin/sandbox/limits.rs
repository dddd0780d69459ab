//! The limits of an attempt, and the errors for exceeding them.
//!
//! A [`LimitBreach`] is the error of the wasm call, so the outcome of the attempt names the limit. Memory is summed over all
//! memories of a component, so that a component with several memories cannot use several times the limit.

use serde::Serialize;
use wasmtime::ResourceLimiter;

use crate::event::FailureClass;

/// The most elements of all tables together. Interpreters need several thousand.
const MAX_TABLE_ELEMENTS: usize = 100_000;

/// The limits of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptLimits {
    /// CPU time plus waiting time, from the call to the answer. Waiting for a CPU does not count.
    pub wall_ms: u64,
    /// CPU time.
    pub cpu_ms: u64,
    /// Size of all memories of the component together.
    pub memory_bytes: u64,
    /// Size of the handler's result.
    pub result_bytes: u64,
    /// Number of events that the handler publishes.
    pub published_events: u32,
    /// Size of the data of one published event.
    pub payload_bytes: u64,
    /// Number of calls that use plugin state.
    pub state_operations: u32,
    /// Size of one value of plugin state.
    pub state_value_bytes: u64,
    /// Number of keys of the plugin. Concurrent attempts may exceed it a little.
    pub state_keys: u64,
    /// Size of all state of the plugin, keys included. Concurrent attempts may exceed it a little.
    pub state_bytes: u64,
    /// Number of log lines that are kept, lines of standard output included.
    pub log_lines: u32,
    /// Size of one log line, fields included. Longer lines are cut.
    pub log_line_bytes: u64,
    /// Size of the end of standard error that is kept.
    pub stderr_bytes: u64,
    /// Size of all data that the guest passes to host functions, dropped log lines included.
    pub host_call_bytes: u64,
    /// Number of HTTP requests that the handler sends.
    pub http_requests: u32,
    /// Size of the body of one request.
    pub http_request_bytes: u64,
    /// Size of the body of one response.
    pub http_response_bytes: u64,
    /// Time from sending a request to the end of its response.
    pub http_timeout_ms: u64,
}

impl Default for AttemptLimits {
    fn default() -> Self {
        const KIB: u64 = 1_024;
        Self {
            wall_ms: 5_000,
            cpu_ms: 1_000,
            memory_bytes: 64 * KIB * KIB,
            result_bytes: 256 * KIB,
            published_events: 100,
            payload_bytes: 256 * KIB,
            state_operations: 256,
            state_value_bytes: 256 * KIB,
            state_keys: 1_000_000,
            state_bytes: 256 * KIB * KIB,
            log_lines: 64,
            log_line_bytes: 4 * KIB,
            stderr_bytes: 8 * KIB,
            host_call_bytes: 16 * KIB * KIB,
            http_requests: 8,
            http_request_bytes: KIB * KIB,
            http_response_bytes: KIB * KIB,
            http_timeout_ms: 5_000,
        }
    }
}

/// The limit that ended an attempt. A retry helps only if the handler uses less the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::plugin) enum LimitBreach {
    #[error("no answer within the {limit_ms} ms of wall time that an attempt may take")]
    WallTime { limit_ms: u64 },
    #[error("used more than the {limit_ms} ms of CPU time that an attempt may use")]
    CpuTime { limit_ms: u64 },
    #[error("wanted {wanted_bytes} bytes of memory; an attempt may have {limit_bytes}")]
    Memory { wanted_bytes: u64, limit_bytes: u64 },
    #[error("wanted {wanted} table elements; an attempt may have {limit}")]
    Table { wanted: usize, limit: usize },
    #[error("passed more than {limit_bytes} bytes to the host, the most that an attempt may")]
    HostCall { limit_bytes: u64 },
}

impl LimitBreach {
    /// The failure class of an attempt that this limit ended.
    pub(in crate::plugin) fn class(&self) -> FailureClass {
        match self {
            Self::WallTime { .. } | Self::CpuTime { .. } => FailureClass::Timeout,
            Self::Memory { .. } | Self::Table { .. } | Self::HostCall { .. } => FailureClass::Limit,
        }
    }
}

/// Counts the memories and tables of one instance.
#[derive(Debug)]
pub(in crate::plugin) struct MemoryLimiter {
    memory_bytes: u64,
    memory_limit_bytes: u64,
    table_elements: usize,
}

impl MemoryLimiter {
    pub(in crate::plugin) fn new(limits: &AttemptLimits) -> Self {
        Self { memory_bytes: 0, memory_limit_bytes: limits.memory_bytes, table_elements: 0 }
    }

    /// Whether less than half of the memory limit is used.
    pub(in crate::plugin) fn has_ample_room(&self) -> bool {
        self.memory_bytes < self.memory_limit_bytes / 2
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted_bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current) as u64);
        if wanted_bytes > self.memory_limit_bytes {
            // An error instead of a refusal: a guest aborts when an allocation is refused, which looks like a panic.
            return Err(LimitBreach::Memory { wanted_bytes, limit_bytes: self.memory_limit_bytes }.into());
        }
        self.memory_bytes = wanted_bytes;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.table_elements.saturating_add(desired.saturating_sub(current));
        if wanted > MAX_TABLE_ELEMENTS {
            return Err(LimitBreach::Table { wanted, limit: MAX_TABLE_ELEMENTS }.into());
        }
        self.table_elements = wanted;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_limited_over_all_memories_together() {
        let mut limiter = MemoryLimiter::new(&AttemptLimits { memory_bytes: 100, ..AttemptLimits::default() });
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        let error = limiter.memory_growing(40, 41, None).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&LimitBreach::Memory { wanted_bytes: 101, limit_bytes: 100 }));
    }

    #[test]
    fn growth_beyond_a_memorys_own_maximum_is_refused_and_does_not_end_the_attempt() {
        let mut limiter = MemoryLimiter::new(&AttemptLimits::default());
        assert!(!limiter.memory_growing(0, 60, Some(59)).unwrap());
        assert!(!limiter.table_growing(0, 60, Some(59)).unwrap());
    }

    #[test]
    fn tables_are_limited_over_all_tables_together() {
        let mut limiter = MemoryLimiter::new(&AttemptLimits::default());
        assert!(limiter.table_growing(0, MAX_TABLE_ELEMENTS, None).unwrap());
        assert!(limiter.table_growing(0, 1, None).is_err());
    }
}
