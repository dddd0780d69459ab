//! The limits of a plugin as its settings give them.

use serde::Deserialize;
use toml::Table;

use super::amount::{duration_ms, size_bytes};
use super::check::check_keys;
use super::invalid::InvalidSettings;
use super::keys::LIMIT_KEYS;
use crate::plugin::AttemptLimits;

/// The limits that are set; see [`AttemptLimits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields of `AttemptLimits`, each of them optional")]
pub struct LimitsPatch {
    #[serde(deserialize_with = "duration_ms")]
    pub wall_ms: Option<u64>,
    #[serde(deserialize_with = "duration_ms")]
    pub cpu_ms: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub memory_bytes: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub result_bytes: Option<u64>,
    pub published_events: Option<u32>,
    #[serde(deserialize_with = "size_bytes")]
    pub payload_bytes: Option<u64>,
    pub state_operations: Option<u32>,
    #[serde(deserialize_with = "size_bytes")]
    pub state_value_bytes: Option<u64>,
    pub state_keys: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub state_bytes: Option<u64>,
    pub log_lines: Option<u32>,
    #[serde(deserialize_with = "size_bytes")]
    pub log_line_bytes: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub stderr_bytes: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub host_call_bytes: Option<u64>,
    pub http_requests: Option<u32>,
    #[serde(deserialize_with = "size_bytes")]
    pub http_request_bytes: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub http_response_bytes: Option<u64>,
    #[serde(deserialize_with = "duration_ms")]
    pub http_timeout_ms: Option<u64>,
}

impl LimitsPatch {
    /// Reads a table of limits, such as `[plugins.limits]`.
    ///
    /// # Errors
    /// The key or value that is wrong.
    pub fn from_table(table: Table) -> Result<Self, InvalidSettings> {
        check_keys(&["limits"], &table, &LIMIT_KEYS)?;
        table.try_into().map_err(|error| InvalidSettings::unfit(&error))
    }

    /// The limits of `defaults`, replaced where a limit is set.
    pub fn over(&self, defaults: AttemptLimits) -> AttemptLimits {
        AttemptLimits {
            wall_ms: self.wall_ms.unwrap_or(defaults.wall_ms),
            cpu_ms: self.cpu_ms.unwrap_or(defaults.cpu_ms),
            memory_bytes: self.memory_bytes.unwrap_or(defaults.memory_bytes),
            result_bytes: self.result_bytes.unwrap_or(defaults.result_bytes),
            published_events: self.published_events.unwrap_or(defaults.published_events),
            payload_bytes: self.payload_bytes.unwrap_or(defaults.payload_bytes),
            state_operations: self.state_operations.unwrap_or(defaults.state_operations),
            state_value_bytes: self.state_value_bytes.unwrap_or(defaults.state_value_bytes),
            state_keys: self.state_keys.unwrap_or(defaults.state_keys),
            state_bytes: self.state_bytes.unwrap_or(defaults.state_bytes),
            log_lines: self.log_lines.unwrap_or(defaults.log_lines),
            log_line_bytes: self.log_line_bytes.unwrap_or(defaults.log_line_bytes),
            stderr_bytes: self.stderr_bytes.unwrap_or(defaults.stderr_bytes),
            host_call_bytes: self.host_call_bytes.unwrap_or(defaults.host_call_bytes),
            http_requests: self.http_requests.unwrap_or(defaults.http_requests),
            http_request_bytes: self.http_request_bytes.unwrap_or(defaults.http_request_bytes),
            http_response_bytes: self.http_response_bytes.unwrap_or(defaults.http_response_bytes),
            http_timeout_ms: self.http_timeout_ms.unwrap_or(defaults.http_timeout_ms),
        }
    }

    /// These limits, and those of `defaults` where none is set.
    pub(super) fn or(self, defaults: &Self) -> Self {
        Self {
            wall_ms: self.wall_ms.or(defaults.wall_ms),
            cpu_ms: self.cpu_ms.or(defaults.cpu_ms),
            memory_bytes: self.memory_bytes.or(defaults.memory_bytes),
            result_bytes: self.result_bytes.or(defaults.result_bytes),
            published_events: self.published_events.or(defaults.published_events),
            payload_bytes: self.payload_bytes.or(defaults.payload_bytes),
            state_operations: self.state_operations.or(defaults.state_operations),
            state_value_bytes: self.state_value_bytes.or(defaults.state_value_bytes),
            state_keys: self.state_keys.or(defaults.state_keys),
            state_bytes: self.state_bytes.or(defaults.state_bytes),
            log_lines: self.log_lines.or(defaults.log_lines),
            log_line_bytes: self.log_line_bytes.or(defaults.log_line_bytes),
            stderr_bytes: self.stderr_bytes.or(defaults.stderr_bytes),
            host_call_bytes: self.host_call_bytes.or(defaults.host_call_bytes),
            http_requests: self.http_requests.or(defaults.http_requests),
            http_request_bytes: self.http_request_bytes.or(defaults.http_request_bytes),
            http_response_bytes: self.http_response_bytes.or(defaults.http_response_bytes),
            http_timeout_ms: self.http_timeout_ms.or(defaults.http_timeout_ms),
        }
    }
}
