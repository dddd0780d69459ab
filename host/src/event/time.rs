//! Points in time, in milliseconds since 1970 and as RFC 3339 text.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time in milliseconds since 1970-01-01T00:00:00Z. Its text is RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest time that can be written, near the end of the year 9999. Later times become this one.
    pub const MAX: Self = Self(253_402_207_199_999);

    /// Converts milliseconds since 1970. Earlier times become 1970; times after [`Self::MAX`] become [`Self::MAX`].
    pub fn from_unix_ms(ms: i64) -> Self {
        Self(ms.clamp(0, Self::MAX.0))
    }

    /// Returns the milliseconds since 1970.
    pub fn unix_ms(self) -> i64 {
        self.0
    }

    /// Returns the time this many milliseconds later.
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
        let TimeParts { local, fraction, offset } = TimeParts::parse(text).ok_or(InvalidTime)?;
        let since_1970 = local.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0)) - offset;
        let digits: String = fraction.chars().skip(1).chain("000".chars()).take(3).collect();
        let ms = since_1970.as_secs().saturating_mul(1_000).saturating_add(digits.parse().unwrap_or(0));
        Ok(Self::from_unix_ms(ms))
    }
}

/// Converts an RFC 3339 text to UTC and keeps all its digits. A text that ends in `Z` is returned unchanged. `None` if it
/// is not RFC 3339, or if its time in UTC is after the year 9999.
pub fn to_utc(text: &str) -> Option<String> {
    let TimeParts { local, fraction, offset } = TimeParts::parse(text)?;
    if text.ends_with(['Z', 'z']) {
        return Some(text.to_owned());
    }
    let utc = local.checked_sub(offset).ok()?;
    Some(format!("{utc}{fraction}Z"))
}

/// The parts of an RFC 3339 text.
struct TimeParts<'a> {
    /// The local date and time, to the second.
    local: DateTime,
    /// The digits below a second with their point, or nothing.
    fraction: &'a str,
    /// The offset from UTC.
    offset: SignedDuration,
}

impl<'a> TimeParts<'a> {
    // jiff reads only the date and time here. For the whole text it accepts more forms than RFC 3339 has. It also refuses
    // more than nine digits below a second, which senders do write.
    fn parse(text: &'a str) -> Option<Self> {
        if !has_rfc_3339_shape(text) {
            return None;
        }
        let (local, rest) = text.split_at(DATE_TIME.len());
        let (fraction, offset) = rest.split_at(rest.find(|c: char| c != '.' && !c.is_ascii_digit())?);
        let offset = match offset.split_at_checked(1) {
            Some((sign @ ("+" | "-"), offset)) => {
                let (hours, minutes): (i64, i64) = (offset.get(..2)?.parse().ok()?, offset.get(3..)?.parse().ok()?);
                let size = (hours < 24 && minutes < 60).then(|| SignedDuration::from_mins(hours * 60 + minutes))?;
                if sign == "-" { -size } else { size }
            }
            _ => SignedDuration::ZERO,
        };
        Some(Self { local: local.parse().ok()?, fraction, offset })
    }
}

/// The shape of a date and time.
const DATE_TIME: &[u8] = b"0000-00-00T00:00:00";

/// Whether a text has the shape of `2026-11-23T15:04:05.007+01:00`. It does not check that there is such a time.
fn has_rfc_3339_shape(text: &str) -> bool {
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

/// The text is not an RFC 3339 time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is RFC 3339 with an offset, such as 2026-11-23T15:04:05Z or 2026-11-23T16:04:05+01:00")]
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
            "2026-02-30T15:04:05Z",
            "2026-11-23T15:04:05+24:00",
            "2026-11-23T15:04:05-01:60",
            "2026-11-23T15:04:05 01:00",
        ] {
            assert_eq!(other.parse::<Timestamp>(), Err(InvalidTime), "{other}");
        }
        assert_eq!("2026-11-23t15:04:05.0070z".parse(), Ok(time));
    }

    #[test]
    fn a_time_becomes_utc_with_all_its_digits_and_far_ones_are_times_too() {
        for (written, utc) in [
            ("1955-06-15T12:00:00+02:00", "1955-06-15T10:00:00Z"),
            ("2026-11-23T07:00:00.123456789012+01:00", "2026-11-23T06:00:00.123456789012Z"),
            ("2026-12-31T23:30:00-01:30", "2027-01-01T01:00:00Z"),
            ("1955-06-15T12:00:00.10Z", "1955-06-15T12:00:00.10Z"),
        ] {
            assert_eq!(to_utc(written).as_deref(), Some(utc));
            assert!(written.parse::<Timestamp>().is_ok(), "{written}");
        }
        assert_eq!("9999-12-31T23:59:59Z".parse(), Ok(Timestamp::MAX));
        assert_eq!("2026-11-23T16:04:05.0071+01:00".parse(), Ok(Timestamp::from_unix_ms(1_795_446_245_007)));
        assert_eq!("1955-06-15T12:00:00Z".parse(), Ok(Timestamp::from_unix_ms(0)));
        assert_eq!(to_utc("9999-12-31T23:59:59-01:00"), None);
    }

    #[test]
    fn the_last_time_can_be_written() {
        assert!(Timestamp::MAX.to_string().starts_with("9999-12-30"), "{}", Timestamp::MAX);
    }
}
