//! Plugin state: what a plugin keeps between events, and the changes that an attempt makes to it.
//!
//! No lock is held while a handler runs. An attempt notes the version of each state key that it reads, and the broker
//! commits its writes only if those versions are still current. An increment names no version, so increments never
//! conflict with each other.

use bytes::Bytes;

/// The largest value of a counter; its negative is the smallest. Every language and Redis' scripts represent integers up
/// to it exactly.
pub const MAX_COUNTER: i64 = (1 << 53) - 1;
/// The longest state key, in bytes.
pub const MAX_STATE_KEY_BYTES: usize = 512;

/// About how many bytes a store uses for a state key beside its name and its value.
pub const STATE_KEY_OVERHEAD_BYTES: u64 = 100;

/// About how many bytes a store uses for a state key, its value and what surrounds them.
pub fn stored_size_bytes(key: &str, value_bytes: usize) -> u64 {
    STATE_KEY_OVERHEAD_BYTES.saturating_add(key.len() as u64).saturating_add(value_bytes as u64)
}

/// What a store holds for a state key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredValue {
    /// The value; `None` if there is none, or if it has expired.
    pub value: Option<Bytes>,
    /// The version, which every write changes; 0 if the state key does not exist.
    pub version: u64,
    /// How many state keys the plugin has.
    pub keys: u64,
    /// The size of all its state keys, see [`stored_size_bytes`].
    pub size_bytes: u64,
    /// The most bytes that the store has room for; `None` if it does not know.
    pub room_bytes: Option<u64>,
}

/// What an attempt read and changes. The settle commits all of it, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateChanges {
    /// The plugin that owns the state.
    pub plugin: String,
    /// The version of each state key that the attempt read or overwrote. If one has changed, nothing is committed.
    pub expected: Vec<(String, u64)>,
    /// The writes, at most one for each state key.
    pub writes: Vec<(String, StateWrite)>,
}

impl StateChanges {
    /// About how many bytes the writes take.
    pub fn size_bytes(&self) -> usize {
        let value = |write: &StateWrite| if let StateWrite::Set { value, .. } = write { value.len() } else { 0 };
        self.writes.iter().map(|(key, write)| key.len() + value(write)).sum()
    }
}

/// The change of one state key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateWrite {
    /// Sets the value.
    Set {
        /// The value.
        value: Bytes,
        /// How long it lasts from the commit on, by the store's clock; `None` for ever.
        ttl_ms: Option<u64>,
    },
    /// Deletes the state key.
    Delete,
    /// Adds to the counter at the commit; a missing one counts as 0. An expiry that was set stays.
    Add(i64),
}

/// Why a counter cannot be incremented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CounterError {
    /// The value is not a number.
    #[error("the value is not a whole number in digits")]
    Text,
    /// The sum would be beyond [`MAX_COUNTER`].
    #[error("a counter is between -{MAX_COUNTER} and {MAX_COUNTER}")]
    Range,
}

/// Adds to a counter and returns its new value. A missing counter counts as 0.
///
/// # Errors
/// The value is not a counter, or the sum is out of range.
pub fn add_to_counter(value: Option<&[u8]>, delta: i64) -> Result<i64, CounterError> {
    let before = match value {
        None => 0,
        Some(value) => {
            let digits = value.strip_prefix(b"-").unwrap_or(value);
            if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_digit) {
                return Err(CounterError::Text);
            }
            std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok()).ok_or(CounterError::Text)?
        }
    };
    let after = before.checked_add(delta).ok_or(CounterError::Range)?;
    if after.unsigned_abs() > MAX_COUNTER.unsigned_abs() { Err(CounterError::Range) } else { Ok(after) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_whole_numbers_that_every_language_represents_exactly() {
        assert_eq!(add_to_counter(None, -3), Ok(-3));
        assert_eq!(add_to_counter(Some(b"-3"), 5), Ok(2));
        assert_eq!(add_to_counter(Some(b"9007199254740990"), 1), Ok(MAX_COUNTER));
        for (value, delta) in [("9007199254740991", 1), ("-9007199254740991", -1), ("0", i64::MIN), ("1", i64::MAX)] {
            assert_eq!(add_to_counter(Some(value.as_bytes()), delta), Err(CounterError::Range), "{value} {delta}");
        }
        for text in ["", "-", "+1", "1.0", " 1", "0x1", "12345678901234567", "é"] {
            assert_eq!(add_to_counter(Some(text.as_bytes()), 1), Err(CounterError::Text), "{text:?}");
        }
    }
}
