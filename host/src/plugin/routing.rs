//! Which plugin handles which type: exact names before the longest prefix before everything.
//!
//! A table is made whole from the plugins there are, as a pure function of them, so that hosts with the same directory
//! route alike whatever came first.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Plugin;
use crate::event::EventType;

/// What types a plugin handles: `order.paid`, `order.*` (any type below it) or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pattern {
    /// This type.
    Exact(EventType),
    /// Every type that begins with this text, which ends in a dot.
    Below(String),
    /// Every type.
    Any,
}

/// The text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a type such as order.paid, a pattern such as order.*, or *")]
pub struct InvalidPattern(String);

impl FromStr for Pattern {
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

impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(event_type) => event_type.fmt(f),
            Self::Below(prefix) => write!(f, "{prefix}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// The routing in force.
#[derive(Debug)]
pub(super) struct Table<P = Plugin> {
    active: BTreeMap<String, Arc<P>>,
    exact: HashMap<EventType, Arc<P>>,
    below: Vec<(String, Arc<P>)>,
    any: Option<Arc<P>>,
}

/// What there is of a plugin.
#[derive(Debug)]
pub(super) struct Versions<P = Plugin> {
    /// The one in the directory, if it could be loaded.
    pub(super) newest: Option<Arc<P>>,
    /// The one that served last.
    pub(super) last_good: Option<Arc<P>>,
}

/// What can be routed to.
pub(super) trait Routed {
    /// What it handles.
    fn patterns(&self) -> &[Pattern];
}

impl Routed for Plugin {
    fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }
}

impl<P> Default for Table<P> {
    fn default() -> Self {
        Self { active: BTreeMap::new(), exact: HashMap::new(), below: Vec::new(), any: None }
    }
}

impl<P: Routed> Table<P> {
    /// The table for these plugins, and why the newest version of some was refused. Of two plugins for one pattern, the
    /// later by name is refused; one that is refused goes on with its last good version if that fits.
    pub(super) fn of(plugins: &BTreeMap<String, Versions<P>>) -> (Self, BTreeMap<String, String>) {
        let mut table = Self::default();
        let mut owners: HashMap<&Pattern, &str> = HashMap::new();
        let mut refused = BTreeMap::new();
        for (name, versions) in plugins {
            for plugin in versions.newest.iter().chain(&versions.last_good) {
                let taken = plugin.patterns().iter().find_map(|pattern| Some((pattern, *owners.get(pattern)?)));
                if let Some((pattern, owner)) = taken {
                    let words =
                        format!("{pattern} is handled by the plugin {owner:?} already; change the types of one");
                    refused.entry(name.clone()).or_insert(words);
                    continue;
                }
                owners.extend(plugin.patterns().iter().map(|pattern| (pattern, name.as_str())));
                table.add(name, plugin);
                break;
            }
        }
        table.below.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        (table, refused)
    }

    fn add(&mut self, name: &str, plugin: &Arc<P>) {
        for pattern in plugin.patterns() {
            match pattern {
                Pattern::Exact(event_type) => _ = self.exact.insert(event_type.clone(), plugin.clone()),
                Pattern::Below(prefix) => self.below.push((prefix.clone(), plugin.clone())),
                Pattern::Any => self.any = Some(plugin.clone()),
            }
        }
        self.active.insert(name.to_owned(), plugin.clone());
    }

    /// The plugin for a type.
    pub(super) fn route(&self, event_type: &EventType) -> Option<&Arc<P>> {
        let below = || {
            let found = self.below.iter().find(|(prefix, _)| event_type.as_str().starts_with(prefix.as_str()));
            found.map(|(_, plugin)| plugin)
        };
        self.exact.get(event_type).or_else(below).or(self.any.as_ref())
    }

    /// The plugins that serve, by name.
    pub(super) fn active(&self) -> &BTreeMap<String, Arc<P>> {
        &self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Fake(&'static str, Vec<Pattern>);

    type Version = Option<Arc<Fake>>;

    impl Routed for Fake {
        fn patterns(&self) -> &[Pattern] {
            &self.1
        }
    }

    fn fake(id: &'static str, patterns: &[&str]) -> Version {
        Some(Arc::new(Fake(id, patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())))
    }

    fn table(plugins: Vec<(&str, Version, Version)>) -> (Table<Fake>, BTreeMap<String, String>) {
        let versions = plugins
            .into_iter()
            .map(|(name, newest, last_good)| (name.to_owned(), Versions { newest, last_good }))
            .collect();
        Table::of(&versions)
    }

    fn routed(table: &Table<Fake>, event_type: &str) -> Option<&'static str> {
        table.route(&event_type.parse().unwrap()).map(|plugin| plugin.0)
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let (table, refused) = table(vec![
            ("a", fake("a", &["*"]), None),
            ("b", fake("b", &["order.*"]), None),
            ("c", fake("c", &["order.eu.*", "USER_SIGNUP"]), None),
            ("d", fake("d", &["order.eu.paid"]), None),
        ]);
        assert!(refused.is_empty());
        for (event_type, expected) in [
            ("order.eu.paid", "d"),
            ("order.eu.sent", "c"),
            ("order.us", "b"),
            ("order.eu", "b"),
            ("order", "a"),
            ("orders.x", "a"),
            ("USER_SIGNUP", "c"),
        ] {
            assert_eq!(routed(&table, event_type), Some(expected), "{event_type}");
        }
    }

    #[test]
    fn of_two_plugins_for_one_type_the_later_by_name_is_refused_whole() {
        let (table, refused) = table(vec![("a", fake("a", &["x"]), None), ("b", fake("b", &["y", "x"]), None)]);
        assert_eq!((routed(&table, "x"), routed(&table, "y")), (Some("a"), None));
        assert!(refused["b"].contains("\"a\""), "{refused:?}");
    }

    #[test]
    fn a_refused_version_leaves_the_last_good_one_in_place() {
        let (table, refused) =
            table(vec![("a", fake("a", &["x"]), None), ("b", fake("new", &["x"]), fake("old", &["y"]))]);
        assert_eq!((routed(&table, "x"), routed(&table, "y")), (Some("a"), Some("old")));
        assert_eq!(refused.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn patterns_are_types_prefixes_or_everything() {
        for text in ["order.paid", "order.*", "a.b.*", "*", "USER_SIGNUP"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for text in ["", ".*", "order*", "*.paid", "or*er", "a b", "**"] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?} is not a pattern");
        }
    }
}
