//! Points in time, as milliseconds since 1970 and as RFC 3339 text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time in milliseconds since 1970-01-01T00:00:00Z; RFC 3339 with milliseconds in every text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest time that can be written, the end of the year 9999. Later ones are brought down to it.
    pub const MAX: Self = Self(253_402_207_199_999);

    /// From milliseconds since 1970. What is before 1970 becomes 1970, what is after [`Self::MAX`] becomes that.
    pub fn from_unix_ms(ms: i64) -> Self {
        Self(ms.clamp(0, Self::MAX.0))
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(self) -> i64 {
        self.0
    }

    /// The same time, later by so many milliseconds.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self::from_unix_ms(self.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        write!(f, "{time:.3}")
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time: jiff::Timestamp = text.parse().map_err(|_| InvalidTime)?;
        Ok(Self::from_unix_ms(time.as_millisecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The text is not a time with an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is written as in RFC 3339: 2026-11-23T15:04:05Z")]
pub struct InvalidTime;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_with_milliseconds() {
        let time = Timestamp::from_unix_ms(1_795_446_245_007);
        assert_eq!(time.to_string(), "2026-11-23T15:04:05.007Z");
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!("2026-11-23T16:04:05.007+01:00".parse(), Ok(time));
        assert_eq!("2026-11-23".parse::<Timestamp>(), Err(InvalidTime));
    }

    #[test]
    fn the_last_time_can_be_written() {
        assert!(Timestamp::MAX.to_string().starts_with("9999-12-30"), "{}", Timestamp::MAX);
    }
}
