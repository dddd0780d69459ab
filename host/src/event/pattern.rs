//! Type patterns, which say what events a plugin handles.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::EventType;

/// A pattern of event types: `order.paid`, `order.*` (any type below `order.`) or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TypePattern {
    /// One type.
    Exact(EventType),
    /// Every type that begins with this prefix, which ends in a dot.
    Below(String),
    /// Every type.
    Any,
}

/// The text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a type such as order.paid, a pattern such as order.*, or *")]
pub struct InvalidPattern(String);

impl FromStr for TypePattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPattern(text.chars().take(EventType::MAX_CHARS).collect());
        if text == "*" {
            return Ok(Self::Any);
        }
        match text.strip_suffix(".*") {
            Some(above) => above.parse::<EventType>().map(|above| Self::Below(format!("{above}."))),
            None => text.parse().map(Self::Exact),
        }
        .map_err(|_| invalid())
    }
}

impl TryFrom<String> for TypePattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TypePattern> for String {
    fn from(pattern: TypePattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(event_type) => event_type.fmt(f),
            Self::Below(prefix) => write!(f, "{prefix}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl TypePattern {
    /// Whether this pattern matches every type that the other one matches.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Below(prefix), Self::Exact(other)) => other.as_str().starts_with(prefix.as_str()),
            (Self::Below(prefix), Self::Below(other)) => other.starts_with(prefix.as_str()),
            (Self::Exact(_), _) | (Self::Below(_), Self::Any) => false,
        }
    }

    /// Whether a type fits this pattern.
    pub fn matches(&self, event_type: &EventType) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == event_type,
            Self::Below(prefix) => event_type.as_str().starts_with(prefix.as_str()),
        }
    }

    /// The rank among patterns that match the same type: the greatest one is the most specific.
    pub fn specificity(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::Below(prefix) => prefix.len(),
            Self::Exact(_) => usize::MAX,
        }
    }
}
