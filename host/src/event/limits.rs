//! What limits an event, whoever makes it: a client over HTTP or a handler that publishes.
//!
//! Limits that an operator can set are in [`Limits`](super::Limits); these are the fixed ones.

/// The longest `source`, `subject`, `id`, `key` and idempotency key, in characters.
pub const MAX_NAME_CHARS: usize = 256;
/// The most extension attributes of an event.
pub const MAX_EXTENSIONS: usize = 32;
/// The longest value of an extension attribute, in characters.
pub const MAX_EXTENSION_VALUE_CHARS: usize = 1_024;
/// The longest delay of an event, in milliseconds: a year.
pub const MAX_DELAY_MS: u64 = 366 * 24 * 60 * 60 * 1_000;

/// The longest name of an extension attribute, in characters.
const MAX_EXTENSION_NAME_CHARS: usize = 64;
/// Attributes of CloudEvents, and those that only the host sets.
const RESERVED_NAMES: [&str; 11] = [
    "id",
    "source",
    "specversion",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "sourceid",
    "causationid",
];

/// Why a name cannot be that of an extension attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadExtensionName {
    /// Not 1 to 64 lower-case letters and digits.
    Malformed,
    /// The name of an attribute of its own.
    Reserved,
}

/// Judges the name of an extension attribute.
///
/// # Errors
/// It is malformed or reserved.
pub fn check_extension_name(name: &str) -> Result<(), BadExtensionName> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.is_empty() || name.len() > MAX_EXTENSION_NAME_CHARS || !name.chars().all(fits) {
        return Err(BadExtensionName::Malformed);
    }
    if RESERVED_NAMES.contains(&name) {
        return Err(BadExtensionName::Reserved);
    }
    Ok(())
}

/// Whether a text is short enough and free of control characters.
pub fn is_plain_text(text: &str, max_chars: usize) -> bool {
    text.chars().count() <= max_chars && !text.chars().any(char::is_control)
}
