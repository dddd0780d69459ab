//! Scopes: what a client may do. Every route of the API names the one that it needs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A group of requests that a key may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Send events.
    Publish,
    /// See events, plugins and metrics.
    Read,
    /// Replay and discard failed events.
    Operate,
    /// Change plugins.
    Deploy,
    /// Make, list and revoke keys.
    Keys,
}

/// The text is not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the scopes are publish, read, operate, deploy and keys")]
pub struct InvalidScope;

impl Scope {
    /// Every scope, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Publish, Self::Read, Self::Operate, Self::Deploy, Self::Keys];

    /// The scope as requests and answers write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Deploy => "deploy",
            Self::Keys => "keys",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(InvalidScope)
    }
}

/// Some scopes. As text they are separated by commas; as JSON they are a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(u8);

impl ScopeSet {
    /// No scope.
    pub const NONE: Self = Self(0);
    /// Every scope.
    pub const ALL: Self = Self(0b1_1111);
    /// What `auth.allow_anonymous` opens to everybody.
    pub const ANONYMOUS: Self = Self(Self::bit(Scope::Publish) | Self::bit(Scope::Read));

    const fn bit(scope: Scope) -> u8 {
        1 << scope as u8
    }

    /// Whether the scope is one of these.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & Self::bit(scope) != 0
    }

    /// Whether all of the others are among these.
    pub fn covers(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | Self::bit(scope)))
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Scope::as_str).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for ScopeSet {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(|name| name.trim().parse::<Scope>()).collect()
    }
}

impl Serialize for ScopeSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

impl<'de> Deserialize<'de> for ScopeSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names.iter().map(|name| name.parse::<Scope>()).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_written() {
        let all: ScopeSet = "keys, deploy,operate,read,publish".parse().unwrap();
        assert_eq!((all, all.to_string().as_str()), (ScopeSet::ALL, "publish,read,operate,deploy,keys"));
        assert_eq!(serde_json::to_string(&ScopeSet::ANONYMOUS).unwrap(), r#"["publish","read"]"#);
        assert_eq!(serde_json::from_str::<ScopeSet>(r#"["read","publish"]"#).unwrap(), ScopeSet::ANONYMOUS);
        for bad in ["", "publish,", "admin", "Publish", "publish read"] {
            assert_eq!(bad.parse::<ScopeSet>(), Err(InvalidScope), "{bad:?}");
        }
        assert!(serde_json::from_str::<ScopeSet>(r#"["admin"]"#).is_err());
    }

    #[test]
    fn a_set_covers_what_lies_in_it() {
        let read: ScopeSet = [Scope::Read].into_iter().collect();
        assert!(ScopeSet::ALL.covers(read) && ScopeSet::ANONYMOUS.covers(read) && read.covers(ScopeSet::NONE));
        assert!(!read.covers(ScopeSet::ANONYMOUS) && ScopeSet::NONE.is_empty() && !read.has(Scope::Publish));
    }
}
