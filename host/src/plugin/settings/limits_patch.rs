//! The limits of a plugin as its settings give them: plain numbers, or sizes and durations as people write them.

use serde::{Deserialize, Deserializer, de};
use toml::Table;

use super::invalid::{self, InvalidSettings};
use crate::plugin::AttemptLimits;

/// Defines the patch with its fields, and how it is combined with limits of the same names.
macro_rules! limits_patch {
    ($($(#[$read:meta])? $limit:ident: $number:ty),+ $(,)?) => {
        /// The limits that are set; see [`AttemptLimits`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[expect(missing_docs, reason = "the fields of `AttemptLimits`, each of them optional")]
        pub struct LimitsPatch {
            $($(#[$read])? pub $limit: Option<$number>),+
        }

        impl LimitsPatch {
            /// The limits of `defaults`, replaced where a limit is set.
            pub fn over(&self, defaults: AttemptLimits) -> AttemptLimits {
                AttemptLimits { $($limit: self.$limit.unwrap_or(defaults.$limit)),+ }
            }

            /// These limits, and those of `defaults` where none is set.
            pub(super) fn or(self, defaults: &Self) -> Self {
                Self { $($limit: self.$limit.or(defaults.$limit)),+ }
            }
        }
    };
}

limits_patch! {
    #[serde(deserialize_with = "duration_ms")] wall_ms: u64,
    #[serde(deserialize_with = "duration_ms")] cpu_ms: u64,
    #[serde(deserialize_with = "size_bytes")] memory_bytes: u64,
    #[serde(deserialize_with = "size_bytes")] result_bytes: u64,
    published_events: u32,
    #[serde(deserialize_with = "size_bytes")] payload_bytes: u64,
    state_operations: u32,
    #[serde(deserialize_with = "size_bytes")] state_value_bytes: u64,
    state_keys: u64,
    #[serde(deserialize_with = "size_bytes")] state_bytes: u64,
    log_lines: u32,
    #[serde(deserialize_with = "size_bytes")] log_line_bytes: u64,
    #[serde(deserialize_with = "size_bytes")] stderr_bytes: u64,
    #[serde(deserialize_with = "size_bytes")] host_call_bytes: u64,
    http_requests: u32,
    #[serde(deserialize_with = "size_bytes")] http_request_bytes: u64,
    #[serde(deserialize_with = "size_bytes")] http_response_bytes: u64,
    #[serde(deserialize_with = "duration_ms")] http_timeout_ms: u64,
}

impl LimitsPatch {
    /// Reads a table of limits, such as `[plugins.limits]`.
    ///
    /// # Errors
    /// The key or value that is wrong.
    pub fn from_table(table: Table) -> Result<Self, InvalidSettings> {
        invalid::read(&["limits"], table)
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
