//! Which plugin has which types, so that none takes them from another without a word.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::routing::{RouteTable, RouteTarget};
use crate::plugin::TypePattern;

/// Who has each pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::plugin) struct PatternOwners(BTreeMap<TypePattern, String>);

/// The types of plugins that served before the host was started, until it is known what they handle now.
#[derive(Debug, Default)]
pub(in crate::plugin) struct ReservedPatterns(BTreeMap<String, PatternReservation>);

#[derive(Debug)]
struct PatternReservation {
    patterns: Vec<TypePattern>,
    /// It is being loaded.
    is_pending: bool,
}

impl PatternOwners {
    /// Those of a routing.
    pub(in crate::plugin) fn of<P: RouteTarget>(table: &RouteTable<P>) -> Self {
        Self(table.owners().map(|(pattern, name)| (pattern.clone(), name.to_owned())).collect())
    }

    /// Each pattern with who has it.
    pub(in crate::plugin) fn iter(&self) -> impl Iterator<Item = (&TypePattern, &str)> {
        self.0.iter().map(|(pattern, name)| (pattern, name.as_str()))
    }

    /// The plugin that would lose events if this one came to handle a pattern: that of the most specific pattern above it.
    /// None if it is the plugin's own. The same pattern is nobody's loss: the routing gives it to one of them only.
    pub(in crate::plugin) fn loser(&self, name: &str, pattern: &TypePattern) -> Option<&str> {
        let above = self.iter().filter(|(theirs, _)| theirs.covers(pattern));
        let (nearest, owner) = above.max_by_key(|(theirs, _)| theirs.specificity())?;
        (nearest != pattern && owner != name).then_some(owner)
    }
}

impl ReservedPatterns {
    /// Reserves the types of a plugin that is about to be loaded.
    pub(in crate::plugin) fn add(&mut self, name: &str, patterns: Vec<TypePattern>) {
        self.0.insert(name.to_owned(), PatternReservation { patterns, is_pending: true });
    }

    /// The plugin was loaded, or was not: then others may have its types.
    pub(in crate::plugin) fn loaded(&mut self, name: &str, serves: bool) -> bool {
        match self.0.get_mut(name) {
            None => false,
            Some(reservation) if serves => {
                reservation.is_pending = false;
                false
            }
            Some(_) => self.0.remove(name).is_some(),
        }
    }

    /// What was loaded has its types by the routing from now on.
    pub(in crate::plugin) fn settle(&mut self) {
        self.0.retain(|_, reservation| reservation.is_pending);
    }

    /// Whether a plugin is being loaded that served before.
    pub(in crate::plugin) fn is_pending(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|reservation| reservation.is_pending)
    }

    /// Who has each pattern, what is reserved included.
    pub(in crate::plugin) fn over(&self, settled: &PatternOwners) -> PatternOwners {
        let mut owners = settled.clone();
        for (name, reservation) in &self.0 {
            for pattern in &reservation.patterns {
                if let Entry::Vacant(free) = owners.0.entry(pattern.clone()) {
                    free.insert(name.clone());
                }
            }
        }
        owners
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TypePattern {
        text.parse().unwrap()
    }

    fn owners(of: &[(&str, &str)]) -> PatternOwners {
        PatternOwners(of.iter().map(|(text, name)| (pattern(text), (*name).to_owned())).collect())
    }

    #[test]
    fn whoever_has_the_nearest_pattern_above_would_lose_events() {
        let owners = owners(&[("*", "all"), ("order.*", "orders"), ("order.eu.*", "europe"), ("order.paid", "paid")]);
        for (name, text, expected) in [
            ("new", "order.sent", Some("orders")),
            ("new", "order.eu.sent", Some("europe")),
            ("new", "order.eu.west.*", Some("europe")),
            ("new", "signup", Some("all")),
            ("new", "order.eu.*", None),
            ("new", "order.paid", None),
            ("new", "*", None),
            ("orders", "order.sent", None),
            ("orders", "order.eu.sent", Some("europe")),
            ("all", "order.sent", Some("orders")),
        ] {
            assert_eq!(owners.loser(name, &pattern(text)), expected, "{name} handles {text}");
        }
        assert_eq!(PatternOwners::default().loser("new", &pattern("a")), None);
    }

    #[test]
    fn what_served_before_keeps_its_types_until_it_is_loaded_or_fails() {
        let mut reserved = ReservedPatterns::default();
        let settled = owners(&[("a", "first")]);
        reserved.add("second", vec![pattern("a"), pattern("b")]);
        let expected = owners(&[("a", "first"), ("b", "second")]);
        assert_eq!((reserved.over(&settled), reserved.is_pending("second")), (expected.clone(), true));
        assert!(!reserved.loaded("second", true) && !reserved.is_pending("second"));
        assert_eq!(reserved.over(&settled), expected);
        reserved.settle();
        assert_eq!(reserved.over(&settled), settled);
        reserved.add("third", vec![pattern("c")]);
        assert!(reserved.loaded("third", false) && !reserved.loaded("third", false));
        assert_eq!(reserved.over(&settled), settled);
    }
}
