//! The limits of a plugin as its settings give them: plain numbers, or sizes and durations as people write them.

use serde::{Deserialize, Deserializer, de};
use toml::Table;

use super::invalid::{InvalidSettings, LIMIT_KEYS, check_keys};
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

/// Makes a value of a type with the same fields, each by a method of the option here and the default there.
macro_rules! each_limit {
    ($limits:ident, $set:ident, $method:ident, $defaults:ident) => {
        $limits {
            wall_ms: $set.wall_ms.$method($defaults.wall_ms),
            cpu_ms: $set.cpu_ms.$method($defaults.cpu_ms),
            memory_bytes: $set.memory_bytes.$method($defaults.memory_bytes),
            result_bytes: $set.result_bytes.$method($defaults.result_bytes),
            published_events: $set.published_events.$method($defaults.published_events),
            payload_bytes: $set.payload_bytes.$method($defaults.payload_bytes),
            state_operations: $set.state_operations.$method($defaults.state_operations),
            state_value_bytes: $set.state_value_bytes.$method($defaults.state_value_bytes),
            state_keys: $set.state_keys.$method($defaults.state_keys),
            state_bytes: $set.state_bytes.$method($defaults.state_bytes),
            log_lines: $set.log_lines.$method($defaults.log_lines),
            log_line_bytes: $set.log_line_bytes.$method($defaults.log_line_bytes),
            stderr_bytes: $set.stderr_bytes.$method($defaults.stderr_bytes),
            host_call_bytes: $set.host_call_bytes.$method($defaults.host_call_bytes),
            http_requests: $set.http_requests.$method($defaults.http_requests),
            http_request_bytes: $set.http_request_bytes.$method($defaults.http_request_bytes),
            http_response_bytes: $set.http_response_bytes.$method($defaults.http_response_bytes),
            http_timeout_ms: $set.http_timeout_ms.$method($defaults.http_timeout_ms),
        }
    };
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
        each_limit!(AttemptLimits, self, unwrap_or, defaults)
    }

    /// These limits, and those of `defaults` where none is set.
    pub(super) fn or(self, defaults: &Self) -> Self {
        each_limit!(Self, self, or, defaults)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenAmount {
    Number(i64),
    Text(String),
}

/// Bytes above 0, as a number or as a size.
fn size_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    amount(deserializer, "a number of bytes above 0, or a size such as \"64MiB\"", |text| {
        text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
    })
}

/// Milliseconds above 0, as a number or as a duration.
pub(in crate::plugin) fn required_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    duration_ms(deserializer).map(Option::unwrap_or_default)
}

/// Milliseconds above 0, as a number or as a duration, for an optional field.
fn duration_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    amount(deserializer, "a number of milliseconds above 0, or a duration such as \"5s\"", |text| {
        humantime::parse_duration(text).ok().and_then(|duration| u64::try_from(duration.as_millis()).ok())
    })
}

fn amount<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
    read: impl Fn(&str) -> Option<u64>,
) -> Result<Option<u64>, D::Error> {
    let amount = match WrittenAmount::deserialize(deserializer)
        .map_err(|_| de::Error::custom(format!("expected {expected}")))?
    {
        WrittenAmount::Number(number) => u64::try_from(number).ok(),
        WrittenAmount::Text(text) => read(&text),
    };
    amount.filter(|amount| *amount > 0).map(Some).ok_or_else(|| de::Error::custom(format!("expected {expected}")))
}
