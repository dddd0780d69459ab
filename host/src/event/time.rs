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
        // The parser takes other ways of ISO 8601 to write a time as well, which the next one may not.
        if !is_rfc_3339(text) {
            return Err(InvalidTime);
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| InvalidTime)?;
        Ok(Self::from_unix_ms(time.as_millisecond()))
    }
}

/// Whether a text has the shape of `2026-11-23T15:04:05.007+01:00`; whether there is such a time is not looked at.
fn is_rfc_3339(text: &str) -> bool {
    const DATE_TIME: &[u8] = b"0000-00-00T00:00:00";
    const OFFSET: &[u8] = b"+00:00";
    let fits = |text: &[u8], shape: &[u8]| {
        let fits = |(byte, shape): (&u8, &u8)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'+' => matches!(byte, b'+' | b'-'),
            shape => byte.eq_ignore_ascii_case(shape),
        };
        text.len() == shape.len() && text.iter().zip(shape).all(fits)
    };
    let Some((date_time, rest)) = text.as_bytes().split_at_checked(DATE_TIME.len()) else { return false };
    let digits = rest.strip_prefix(b".").map_or(0, |rest| rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let offset = if digits > 0 { &rest[digits + 1..] } else { rest };
    fits(date_time, DATE_TIME) && (offset.eq_ignore_ascii_case(b"z") || fits(offset, OFFSET))
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
        for other in [
            "2026-11-23",
            "20261123T150405Z",
            "2026-11-23 15:04:05Z",
            "2026-11-23T15:04:05+01",
            "2026-11-23T15:04:05+01:00[Europe/Berlin]",
            "2026-11-23T15:04:05.Z",
            "2026-11-23T15:04:05,7Z",
            "2026-11-23T15:04Z",
        ] {
            assert_eq!(other.parse::<Timestamp>(), Err(InvalidTime), "{other}");
        }
        assert_eq!("2026-11-23t15:04:05.0070z".parse(), Ok(time));
    }

    #[test]
    fn the_last_time_can_be_written() {
        assert!(Timestamp::MAX.to_string().starts_with("9999-12-30"), "{}", Timestamp::MAX);
    }
}
