//! The rate of a key: how many events and other requests it allows in a time, in the whole deployment.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most requests that a rate names.
const MAX_REQUESTS: u32 = 1_000_000;
/// The letters of the times, each with its milliseconds.
const PERIODS: [(&str, u64); 3] = [("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// A rate such as `100/s`, `50/m` or `1000/h`. Each event of a request counts, any other request counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestRate {
    requests: u32,
    period_ms: u64,
}

/// The text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate is a number from 1 to 1000000 and a time, such as 100/s, 50/m or 1000/h")]
pub struct InvalidRate;

impl RequestRate {
    /// How many requests it allows in [`Self::period_ms`].
    pub fn requests(self) -> u32 {
        self.requests
    }

    /// The time that it names, in milliseconds.
    pub fn period_ms(self) -> u64 {
        self.period_ms
    }

    /// Whether it allows at least what the other one allows.
    pub fn covers(self, other: Self) -> bool {
        let scaled = |rate: Self, period_ms: u64| u64::from(rate.requests) * period_ms;
        // All requests of a period may come at one moment, so the average alone is not enough.
        self.requests >= other.requests && scaled(self, other.period_ms) >= scaled(other, self.period_ms)
    }
}

impl FromStr for RequestRate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, period) = text.split_once('/').ok_or(InvalidRate)?;
        let requests = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok()).flatten();
        let requests = requests.filter(|requests| (1..=MAX_REQUESTS).contains(requests)).ok_or(InvalidRate)?;
        let (_, period_ms) = PERIODS.into_iter().find(|(letter, _)| *letter == period).ok_or(InvalidRate)?;
        Ok(Self { requests, period_ms })
    }
}

impl fmt::Display for RequestRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = PERIODS.into_iter().find(|(_, ms)| *ms == self.period_ms).map_or("", |(letter, _)| letter);
        write!(f, "{}/{letter}", self.requests)
    }
}

impl TryFrom<String> for RequestRate {
    type Error = InvalidRate;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RequestRate> for String {
    fn from(rate: RequestRate) -> Self {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_written() {
        for text in ["1/s", "100/s", "50/m", "1000000/h"] {
            assert_eq!(text.parse::<RequestRate>().unwrap().to_string(), text);
        }
        for bad in
            ["", "100", "/s", "0/s", "1000001/s", "-1/s", "+1/s", "1.5/s", "1/d", "1 /s", "1/s ", "99999999999/s"]
        {
            assert_eq!(bad.parse::<RequestRate>(), Err(InvalidRate), "{bad:?}");
        }
    }

    #[test]
    fn rates_of_different_times_are_compared() {
        let covers = |one: &str, other: &str| one.parse::<RequestRate>().unwrap().covers(other.parse().unwrap());
        assert!(covers("60/m", "1/s") && covers("60/m", "60/m") && covers("2/s", "1/s") && covers("1000000/s", "1/h"));
        assert!(!covers("59/m", "1/s") && !covers("1/h", "1/m"));
        assert!(!covers("1/s", "60/m") && !covers("10/s", "36000/h"), "more at one moment");
    }
}
