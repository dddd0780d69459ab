//! What a plugin keeps between events, and what an attempt wants to change of it.
//!
//! Nothing is locked while a handler runs. An attempt notes which version of each key it has seen, and its writes are
//! committed only if those are still the versions; increments ask for no version, so that they never get in each other's
//! way.

use bytes::Bytes;

/// The largest number that a counter may hold, and with a minus the smallest: what every language and Redis' scripts
/// count exactly.
pub const MAX_COUNTER: i64 = (1 << 53) - 1;
/// The longest key, in bytes.
pub const MAX_STATE_KEY_BYTES: usize = 512;

/// What a key takes in a store beside its name and its value, about.
pub const STATE_KEY_BYTES: u64 = 100;

/// What a key takes in a store: its name, its value and what stands around them.
pub fn state_bytes(key: &str, value_bytes: usize) -> u64 {
    STATE_KEY_BYTES.saturating_add(key.len() as u64).saturating_add(value_bytes as u64)
}

/// What a store keeps under a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredValue {
    /// `None` if nothing is kept, or not any more.
    pub value: Option<Bytes>,
    /// Differs whenever something was written since; 0 if nothing is kept.
    pub version: u64,
    /// How many keys the plugin has.
    pub keys: u64,
    /// How much all its keys take, see [`state_bytes`].
    pub size_bytes: u64,
    /// The most that the store has room for; `None` if it does not know.
    pub room_bytes: Option<u64>,
}

/// What an attempt has seen and wants to change. Takes effect with the settle, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateStep {
    /// Whose state it is.
    pub plugin: String,
    /// The version of each key that the attempt has read or overwritten. If one is another by now, nothing is done.
    pub expected: Vec<(String, u64)>,
    /// What is to be written, one write for a key.
    pub writes: Vec<(String, StateWrite)>,
}

impl StateStep {
    /// About how much is written for it.
    pub fn size_bytes(&self) -> usize {
        let value = |write: &StateWrite| if let StateWrite::Set { value, .. } = write { value.len() } else { 0 };
        self.writes.iter().map(|(key, write)| key.len() + value(write)).sum()
    }
}

/// What is to become of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateWrite {
    /// It holds this.
    Set {
        /// The value.
        value: Bytes,
        /// From the commit on, by the store's clock; `None` for ever.
        ttl_ms: Option<u64>,
    },
    /// It holds nothing.
    Delete,
    /// It holds so much more than it does at the time of the commit; nothing counts as 0. What ends keeps its time.
    Add(i64),
}

/// Why a key cannot be counted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotACounter {
    /// What it holds is not a number.
    #[error("it holds something that is not a whole number in digits")]
    Text,
    /// The sum would be beyond [`MAX_COUNTER`].
    #[error("a counter is between -{MAX_COUNTER} and {MAX_COUNTER}")]
    Range,
}

/// What a counter holds after an increment. Nothing counts as 0.
///
/// # Errors
/// See [`NotACounter`].
pub fn add(value: Option<&[u8]>, delta: i64) -> Result<i64, NotACounter> {
    let before = match value {
        None => 0,
        Some(value) => {
            let digits = value.strip_prefix(b"-").unwrap_or(value);
            if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_digit) {
                return Err(NotACounter::Text);
            }
            std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok()).ok_or(NotACounter::Text)?
        }
    };
    let after = before.checked_add(delta).ok_or(NotACounter::Range)?;
    if after.unsigned_abs() > MAX_COUNTER.unsigned_abs() { Err(NotACounter::Range) } else { Ok(after) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_whole_numbers_that_everybody_counts_exactly() {
        assert_eq!(add(None, -3), Ok(-3));
        assert_eq!(add(Some(b"-3"), 5), Ok(2));
        assert_eq!(add(Some(b"9007199254740990"), 1), Ok(MAX_COUNTER));
        for (value, delta) in [("9007199254740991", 1), ("-9007199254740991", -1), ("0", i64::MIN), ("1", i64::MAX)] {
            assert_eq!(add(Some(value.as_bytes()), delta), Err(NotACounter::Range), "{value} {delta}");
        }
        for text in ["", "-", "+1", "1.0", " 1", "0x1", "12345678901234567", "é"] {
            assert_eq!(add(Some(text.as_bytes()), 1), Err(NotACounter::Text), "{text:?}");
        }
    }
}
