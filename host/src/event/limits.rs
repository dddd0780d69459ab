//! The limits of an event, for clients over HTTP and for handlers that publish.
//!
//! [`EventLimits`] holds those that an operator can set; the constants are fixed.

/// The longest `source`, `subject`, `id`, `key` and idempotency key, in characters.
pub const MAX_NAME_CHARS: usize = 256;
/// The most extension attributes of an event.
pub const MAX_EXTENSIONS: usize = 32;
/// The longest value of an extension attribute, in characters.
pub const MAX_EXTENSION_VALUE_CHARS: usize = 1_024;
/// The longest delay of an event, in milliseconds: a year.
pub const MAX_DELAY_MS: u64 = 366 * 24 * 60 * 60 * 1_000;

/// The limits of a request with events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventLimits {
    /// The largest payload, in bytes.
    pub max_payload_bytes: usize,
    /// The most events in one request.
    pub max_batch_events: usize,
    /// The deepest nesting of arrays and objects in the whole body.
    pub max_json_depth: usize,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self { max_payload_bytes: 256 * 1024, max_batch_events: 1_000, max_json_depth: 64 }
    }
}

/// The longest name of an extension attribute, in characters.
const MAX_EXTENSION_NAME_CHARS: usize = 64;
/// The attributes of CloudEvents, and two that only the host sets.
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

/// Why a name is not valid for an extension attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadExtensionName {
    /// Not 1 to 64 lower-case letters and digits.
    Malformed,
    /// The name of a CloudEvents attribute, or one that only the host sets.
    Reserved,
}

/// Checks the name of an extension attribute.
///
/// # Errors
/// The name is malformed or reserved.
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
