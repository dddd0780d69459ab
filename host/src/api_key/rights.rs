//! What a key allows, and whether one key allows all that another one does.

use serde::{Deserialize, Serialize};

use super::{RequestRate, Scope, ScopeSet};
use crate::event::{EventType, Timestamp, TypePattern};

/// The most type patterns of a key.
pub const MAX_KEY_TYPES: usize = 100;

/// What a key allows.
///
/// A host that does not know a member refuses the key, since the member may limit it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRights {
    /// What it may be used for.
    pub scopes: ScopeSet,
    /// The types of events that it may publish; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<TypePattern>,
    /// How many requests it allows in a time; `None` for any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RequestRate>,
    /// When it ends; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What a key would allow that its maker may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyExcess {
    /// Your key lacks a scope.
    #[error("your key has no scope {0}")]
    Scope(Scope),
    /// Your key may not publish events of all these types.
    #[error("your key may only publish events of the types {0}")]
    Types(String),
    /// Your key has a lower rate.
    #[error("your key has the rate {0}; give at most that")]
    Rate(RequestRate),
    /// Your key ends earlier.
    #[error("your key ends at {0}; no key that it makes may end later")]
    Expiry(Timestamp),
}

impl KeyRights {
    /// All scopes without a limit.
    pub fn all() -> Self {
        Self { scopes: ScopeSet::ALL, types: Vec::new(), rate: None, expires_at: None }
    }

    /// Whether events of this type may be published, if any may.
    pub fn allows_type(&self, event_type: &EventType) -> bool {
        self.types.is_empty() || self.types.iter().any(|pattern| pattern.matches(event_type))
    }

    /// The first thing that the other key allows and this one does not; `None` if it allows no more.
    pub fn excess_of(&self, other: &Self) -> Option<KeyExcess> {
        if let Some(scope) = other.scopes.iter().find(|scope| !self.scopes.has(*scope)) {
            return Some(KeyExcess::Scope(scope));
        }
        let is_covered = |other: &TypePattern| self.types.iter().any(|pattern| pattern.covers(other));
        let publishes = other.scopes.has(Scope::Publish);
        if publishes && !self.types.is_empty() && (other.types.is_empty() || !other.types.iter().all(is_covered)) {
            return Some(KeyExcess::Types(join_patterns(&self.types)));
        }
        if let Some(rate) = self.rate.filter(|rate| other.rate.is_none_or(|other| !rate.covers(other))) {
            return Some(KeyExcess::Rate(rate));
        }
        let ends_later = |at: &Timestamp| other.expires_at.is_none_or(|other| other > *at);
        self.expires_at.filter(ends_later).map(KeyExcess::Expiry)
    }
}

/// The patterns as text, separated by commas.
pub(super) fn join_patterns(patterns: &[TypePattern]) -> String {
    patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(json: &str) -> KeyRights {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_key_makes_only_lesser_keys() {
        let own = rights(
            r#"{"scopes":["publish","keys"],"types":["order.*","a"],"rate":"10/s","expiresAt":"2026-12-01T00:00:00Z"}"#,
        );
        let asked = |change: fn(&mut KeyRights)| {
            let mut asked = own.clone();
            change(&mut asked);
            own.excess_of(&asked)
        };
        assert_eq!(asked(|_| ()), None);
        assert_eq!(asked(|it| it.types = vec!["order.paid.*".parse().unwrap(), "a".parse().unwrap()]), None);
        assert_eq!(asked(|it| it.rate = Some("10/m".parse().unwrap())), None);
        assert_eq!(asked(|it| it.scopes = ScopeSet::ALL), Some(KeyExcess::Scope(Scope::Read)));
        let types = Some(KeyExcess::Types("order.*, a".into()));
        assert_eq!(asked(|it| it.types = Vec::new()), types);
        assert_eq!(asked(|it| it.types = vec!["*".parse().unwrap()]), types);
        assert_eq!(asked(|it| it.types.push("b".parse().unwrap())), types);
        assert_eq!(asked(|it| it.rate = None), Some(KeyExcess::Rate("10/s".parse().unwrap())));
        // No more on average, but more at one moment.
        let rate = Some(KeyExcess::Rate("10/s".parse().unwrap()));
        assert_eq!(asked(|it| it.rate = Some("600/m".parse().unwrap())), rate);
        assert!(matches!(asked(|it| it.expires_at = None), Some(KeyExcess::Expiry(_))));
        assert!(matches!(asked(|it| it.expires_at = Some(Timestamp::MAX)), Some(KeyExcess::Expiry(_))));
        assert_eq!(KeyRights::all().excess_of(&KeyRights::all()), None);
        // Types are about publishing only.
        let reader = rights(r#"{"scopes":["keys"],"types":["a"]}"#);
        assert_eq!(reader.excess_of(&rights(r#"{"scopes":["keys"]}"#)), None);
    }

    #[test]
    fn a_type_is_allowed_by_any_pattern() {
        let rights = rights(r#"{"scopes":["publish"],"types":["order.*","a"]}"#);
        let allows = |text: &str| rights.allows_type(&text.parse().unwrap());
        assert!(allows("order.paid") && allows("order.paid.late") && allows("a"));
        assert!(!allows("order") && !allows("orders.paid") && !allows("a.b") && !allows("A"));
        assert!(KeyRights::all().allows_type(&"anything".parse().unwrap()));
    }

    #[test]
    fn what_a_host_does_not_know_is_refused() {
        for later in [r#"{"scopes":["publish"],"networks":["10.0.0.0/8"]}"#, r#"{"scopes":["publish","erase"]}"#] {
            assert!(serde_json::from_str::<KeyRights>(later).is_err(), "{later}");
        }
    }
}
