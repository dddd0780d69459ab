//! The keys that settings may have.

pub(super) const KEYS: [&str; 9] =
    ["types", "concurrency", "max_waiting", "reuse", "limits", "retry", "config", "secrets", "grants"];
pub(super) const REUSE_KEYS: [&str; 2] = ["max_events", "idle_ms"];
pub(super) const GRANT_KEYS: [&str; 1] = ["http"];
pub(super) const LIMIT_KEYS: [&str; 18] = [
    "wall_ms",
    "cpu_ms",
    "memory_bytes",
    "result_bytes",
    "published_events",
    "payload_bytes",
    "state_operations",
    "state_value_bytes",
    "state_keys",
    "state_bytes",
    "log_lines",
    "log_line_bytes",
    "stderr_bytes",
    "host_call_bytes",
    "http_requests",
    "http_request_bytes",
    "http_response_bytes",
    "http_timeout_ms",
];
pub(super) const POLICY_KEYS: [&str; 4] = ["max_attempts", "initial_ms", "factor", "max_ms"];
pub(super) const CLASS_KEYS: [&str; 4] = ["retry", "trap", "timeout", "limit"];
