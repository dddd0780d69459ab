//! Which plugin owns which types, so that no plugin takes the types of another by accident.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::event::TypePattern;

/// The plugin that owns each pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PatternOwners(BTreeMap<TypePattern, String>);

/// The types of plugins that served before the host started. Each plugin keeps its types until it is loaded or fails.
#[derive(Debug, Default)]
pub(super) struct ReservedPatterns(BTreeMap<String, PatternReservation>);

#[derive(Debug)]
struct PatternReservation {
    patterns: Vec<TypePattern>,
    /// The plugin is being loaded.
    is_pending: bool,
}

impl<'a> FromIterator<(&'a TypePattern, &'a str)> for PatternOwners {
    fn from_iter<I: IntoIterator<Item = (&'a TypePattern, &'a str)>>(owners: I) -> Self {
        Self(owners.into_iter().map(|(pattern, name)| (pattern.clone(), name.to_owned())).collect())
    }
}

impl PatternOwners {
    /// Each pattern with the name of its owner.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TypePattern, &str)> {
        self.0.iter().map(|(pattern, name)| (pattern, name.as_str()))
    }

    /// The other plugin that would lose events if the plugin `name` handled a pattern. It owns the most specific pattern
    /// that covers this one. Nobody loses a pattern that is named twice, since routing gives it to one owner only.
    pub(super) fn find_loser(&self, name: &str, pattern: &TypePattern) -> Option<&str> {
        let above = self.iter().filter(|(theirs, _)| theirs.covers(pattern));
        let (nearest, owner) = above.max_by_key(|(theirs, _)| theirs.specificity())?;
        (nearest != pattern && owner != name).then_some(owner)
    }
}

impl ReservedPatterns {
    /// Reserves the types of a plugin that is about to be loaded.
    pub(super) fn reserve(&mut self, name: &str, patterns: Vec<TypePattern>) {
        self.0.insert(name.to_owned(), PatternReservation { patterns, is_pending: true });
    }

    /// Ends the loading of a plugin. If it does not serve, others may have its types: `true` if there were some.
    pub(super) fn end_loading(&mut self, name: &str, serves: bool) -> bool {
        match self.0.get_mut(name) {
            None => false,
            Some(reservation) if serves => {
                reservation.is_pending = false;
                false
            }
            Some(_) => self.0.remove(name).is_some(),
        }
    }

    /// Drops the reservations of loaded plugins, which own their types by the routing from now on.
    pub(super) fn drop_loaded(&mut self) {
        self.0.retain(|_, reservation| reservation.is_pending);
    }

    /// Whether a plugin that served before is being loaded.
    pub(super) fn is_pending(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|reservation| reservation.is_pending)
    }

    /// These owners, and the plugins that reserved the patterns without an owner.
    pub(super) fn added_to(&self, owners: &PatternOwners) -> PatternOwners {
        let mut owners = owners.clone();
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
    fn the_owner_of_the_most_specific_covering_pattern_would_lose_events() {
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
            assert_eq!(owners.find_loser(name, &pattern(text)), expected, "{name} handles {text}");
        }
        assert_eq!(PatternOwners::default().find_loser("new", &pattern("a")), None);
    }

    #[test]
    fn a_plugin_that_served_before_keeps_its_types_until_it_is_loaded_or_fails() {
        let mut reserved = ReservedPatterns::default();
        let routed = owners(&[("a", "first")]);
        reserved.reserve("second", vec![pattern("a"), pattern("b")]);
        let expected = owners(&[("a", "first"), ("b", "second")]);
        assert_eq!((reserved.added_to(&routed), reserved.is_pending("second")), (expected.clone(), true));
        assert!(!reserved.end_loading("second", true) && !reserved.is_pending("second"));
        assert_eq!(reserved.added_to(&routed), expected);
        reserved.drop_loaded();
        assert_eq!(reserved.added_to(&routed), routed);
        reserved.reserve("third", vec![pattern("c")]);
        assert!(reserved.end_loading("third", false) && !reserved.end_loading("third", false));
        assert_eq!(reserved.added_to(&routed), routed);
    }
}
