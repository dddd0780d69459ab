//! An event's id, which never changes, its type, by which it is routed, and the names of plugins.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Timestamp;

/// The id of an event, a UUID of version 7 that the server makes.
///
/// Ids of one process ascend. Ids of several processes ascend only as far as their clocks agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    /// Makes a new id from the clock, greater than every id that this process made before.
    #[expect(clippy::new_without_default, reason = "it reads the clock: each value is another one")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the 16 bytes of an id, most significant first.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// When the id was made, by the clock of its host; `None` for an id without a time.
    pub fn created_at(&self) -> Option<Timestamp> {
        let (seconds, nanoseconds) = self.0.get_timestamp()?.to_unix();
        let ms = seconds.checked_mul(1_000)?.checked_add(u64::from(nanoseconds / 1_000_000))?;
        Some(Timestamp::from_unix_ms(i64::try_from(ms).ok()?))
    }

    /// The 16 bytes of the id, most significant first.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for EventId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self).map_err(|_| InvalidId)
    }
}

/// The text is not a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event id is a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")]
pub struct InvalidId;

/// The type of an event: 1 to 128 characters of letters, digits and `._-/:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventType(Arc<str>);

impl EventType {
    /// The longest type, in characters.
    pub const MAX_CHARS: usize = 128;

    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventType {
    type Err = InvalidType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
        if text.is_empty() || text.len() > Self::MAX_CHARS || !text.chars().all(fits) {
            return Err(InvalidType);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for EventType {
    type Error = InvalidType;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EventType> for String {
    fn from(value: EventType) -> Self {
        value.0.as_ref().to_owned()
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not an event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a type is 1 to 128 characters of letters, digits and ._-/:")]
pub struct InvalidType;

/// The longest name of a plugin, in bytes.
pub const MAX_PLUGIN_NAME_BYTES: usize = 128;

/// Whether a text is a valid name of a plugin: 1 to 128 letters, digits and `._-` that start with a letter or digit. Such a
/// name is also an event type, a lane, and safe as a part of a path.
pub fn is_plugin_name(text: &str) -> bool {
    text.len() <= MAX_PLUGIN_NAME_BYTES
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_keep_to_their_alphabet_and_length() {
        for good in ["USER_SIGNUP", "order.paid", "a/b:c-d_e.f", &"x".repeat(128)] {
            assert!(good.parse::<EventType>().is_ok(), "{good:?} is a type");
        }
        for bad in ["", " ", "a b", "naïve", "a\n", "a*", &"x".repeat(129)] {
            assert!(bad.parse::<EventType>().is_err(), "{bad:?} is not a type");
        }
    }

    #[test]
    fn ids_of_one_process_ascend() {
        let ids: Vec<EventId> = (0..1_000).map(|_| EventId::new()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn names_keep_to_their_alphabet_and_length() {
        for name in ["a", "order.paid", "0_x-y", &"a".repeat(128)] {
            assert!(is_plugin_name(name), "{name:?}");
        }
        for text in ["", ".a", "-a", "_", "a b", "a/b", "..", "é", &"a".repeat(129)] {
            assert!(!is_plugin_name(text), "{text:?}");
        }
    }
}
