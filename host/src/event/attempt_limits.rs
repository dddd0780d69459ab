//! The limits of an attempt: what an operator sets, what `plugin` enforces and what `GET /plugins` shows.

use serde::Serialize;

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
