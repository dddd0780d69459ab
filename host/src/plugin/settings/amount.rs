//! Sizes and durations as people write them: a number, or a text with a unit.

use serde::{Deserialize, Deserializer, de};

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenAmount {
    Number(i64),
    Text(String),
}

/// Bytes above 0, as a number or as a size.
pub(super) fn size_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    amount(deserializer, "a number of bytes above 0, or a size such as \"64MiB\"", |text| {
        text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
    })
}

/// Milliseconds above 0, as a number or as a duration.
pub(in crate::plugin) fn required_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    duration_ms(deserializer).map(Option::unwrap_or_default)
}

/// Milliseconds above 0, as a number or as a duration, for an optional field.
pub(super) fn duration_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
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
