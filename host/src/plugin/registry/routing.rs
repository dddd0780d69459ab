//! Which plugin handles which type: exact names before the longest prefix before everything.
//!
//! A table is made whole, as a pure function of the plugins there are and of the table before: what serves keeps its
//! types whoever comes to name them too, and names decide only where nothing served before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::pattern_owners::PatternOwners;
use crate::event::EventType;
use crate::plugin::Plugin;

pub use crate::event::{InvalidPattern, TypePattern};

/// The routing in force.
#[derive(Debug)]
pub(in crate::plugin) struct RouteTable<P = Plugin> {
    active: BTreeMap<String, Arc<P>>,
    exact: HashMap<EventType, Arc<P>>,
    below: Vec<(String, Arc<P>)>,
    any: Option<Arc<P>>,
}

/// What there is of a plugin.
#[derive(Debug)]
pub(in crate::plugin) struct PluginVersions<P = Plugin> {
    /// The one in the directory, if it could be loaded.
    pub(in crate::plugin) newest: Option<Arc<P>>,
    /// The one that served last.
    pub(in crate::plugin) last_good: Option<Arc<P>>,
}

/// What can be routed to.
pub(in crate::plugin) trait RouteTarget {
    /// What it handles.
    fn patterns(&self) -> &[TypePattern];
}

impl RouteTarget for Plugin {
    fn patterns(&self) -> &[TypePattern] {
        &self.patterns
    }
}

impl<P> Default for RouteTable<P> {
    fn default() -> Self {
        Self { active: BTreeMap::new(), exact: HashMap::new(), below: Vec::new(), any: None }
    }
}

impl<P: RouteTarget> RouteTable<P> {
    /// The table for these plugins, and why the newest version of some was refused. Of two plugins for one pattern the one
    /// keeps it that had it `before`, or is being loaded again; where none has, the first by name. One that is refused goes
    /// on with its last good version if that fits.
    pub(in crate::plugin) fn of(
        plugins: &BTreeMap<String, PluginVersions<P>>,
        before: &PatternOwners,
        is_pending: impl Fn(&str) -> bool,
    ) -> (Self, BTreeMap<String, String>) {
        let had: HashMap<&TypePattern, &str> = before.iter().collect();
        let mut refused = BTreeMap::new();
        let mut refusals: HashMap<&str, usize> = HashMap::new();
        loop {
            let candidate = plugins.iter().filter_map(|(name, PluginVersions { newest, last_good })| {
                let at = refusals.get(name.as_str()).copied().unwrap_or(0);
                Some((name.as_str(), newest.iter().chain(last_good).nth(at)?))
            });
            let candidates: Vec<(&str, &Arc<P>)> = candidate.collect();
            // Each refusal may give back a pattern that another version of the same plugin has.
            let Some((name, pattern, owner)) = conflict(&candidates, &had, &is_pending) else {
                let mut table = Self::default();
                candidates.iter().for_each(|(name, plugin)| table.add(name, plugin));
                table.below.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
                return (table, refused);
            };
            let words = format!("{pattern} is handled by the plugin {owner:?} already; change the types of one");
            refused.entry(name.to_owned()).or_insert(words);
            *refusals.entry(name).or_default() += 1;
        }
    }

    fn add(&mut self, name: &str, plugin: &Arc<P>) {
        for pattern in plugin.patterns() {
            match pattern {
                TypePattern::Exact(event_type) => _ = self.exact.insert(event_type.clone(), plugin.clone()),
                TypePattern::Below(prefix) => self.below.push((prefix.clone(), plugin.clone())),
                TypePattern::Any => self.any = Some(plugin.clone()),
            }
        }
        self.active.insert(name.to_owned(), plugin.clone());
    }

    /// The plugin for a type.
    pub(in crate::plugin) fn route(&self, event_type: &EventType) -> Option<&Arc<P>> {
        let below = || {
            let found = self.below.iter().find(|(prefix, _)| event_type.as_str().starts_with(prefix.as_str()));
            found.map(|(_, plugin)| plugin)
        };
        self.exact.get(event_type).or_else(below).or(self.any.as_ref())
    }

    /// The plugin that names this very type.
    pub(in crate::plugin) fn route_exact(&self, event_type: &EventType) -> Option<&Arc<P>> {
        self.exact.get(event_type)
    }

    /// Each pattern with the name of the plugin that has it.
    pub(in crate::plugin) fn owners(&self) -> impl Iterator<Item = (&TypePattern, &str)> {
        self.active.iter().flat_map(|(name, plugin)| plugin.patterns().iter().map(|pattern| (pattern, name.as_str())))
    }

    /// The plugins that serve, by name.
    pub(in crate::plugin) fn active(&self) -> &BTreeMap<String, Arc<P>> {
        &self.active
    }
}

/// The first plugin that names a pattern which another one keeps, with the pattern and the other one.
fn conflict<'a, P: RouteTarget>(
    candidates: &[(&'a str, &'a Arc<P>)],
    had: &HashMap<&'a TypePattern, &'a str>,
    is_pending: impl Fn(&str) -> bool,
) -> Option<(&'a str, &'a TypePattern, &'a str)> {
    let named: HashSet<(&TypePattern, &str)> =
        candidates.iter().flat_map(|(name, plugin)| plugin.patterns().iter().map(|pattern| (pattern, *name))).collect();
    let keeps =
        |(pattern, name): &(&&'a TypePattern, &&'a str)| named.contains(&(**pattern, **name)) || is_pending(name);
    let mut owners: HashMap<&TypePattern, &str> =
        had.iter().filter(keeps).map(|(pattern, name)| (*pattern, *name)).collect();
    candidates.iter().find_map(|(name, plugin)| {
        let taken = plugin.patterns().iter().find_map(|pattern| {
            let owner = *owners.get(pattern)?;
            (owner != *name).then_some((*name, pattern, owner))
        });
        owners.extend(plugin.patterns().iter().map(|pattern| (pattern, *name)));
        taken
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct FakePlugin(&'static str, Vec<TypePattern>);

    type Version = Option<Arc<FakePlugin>>;

    impl RouteTarget for FakePlugin {
        fn patterns(&self) -> &[TypePattern] {
            &self.1
        }
    }

    fn fake(id: &'static str, patterns: &[&str]) -> Version {
        Some(Arc::new(FakePlugin(id, patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())))
    }

    fn table(plugins: Vec<(&str, Version, Version)>) -> (RouteTable<FakePlugin>, BTreeMap<String, String>) {
        table_after(&RouteTable::default(), plugins)
    }

    fn table_after(
        before: &RouteTable<FakePlugin>,
        plugins: Vec<(&str, Version, Version)>,
    ) -> (RouteTable<FakePlugin>, BTreeMap<String, String>) {
        let versions = plugins
            .into_iter()
            .map(|(name, newest, last_good)| (name.to_owned(), PluginVersions { newest, last_good }))
            .collect();
        RouteTable::of(&versions, &PatternOwners::of(before), |_| false)
    }

    fn routed(table: &RouteTable<FakePlugin>, event_type: &str) -> Option<&'static str> {
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
    fn what_serves_keeps_its_types_whoever_comes_to_name_them() {
        let (before, _) = table(vec![("z", fake("z", &["x"]), None)]);
        let (after, refused) =
            table_after(&before, vec![("a", fake("a", &["x"]), None), ("z", fake("z", &["x"]), None)]);
        assert_eq!((routed(&after, "x"), refused.keys().collect::<Vec<_>>()), (Some("z"), vec![&"a".to_owned()]));
        // A new version keeps what the one before had, and takes nothing more from others.
        let mended = || ("z", fake("z2", &["x"]), fake("z", &["x"]));
        let (after, _) = table_after(&before, vec![("a", fake("a", &["x"]), None), mended()]);
        assert_eq!(routed(&after, "x"), Some("z2"));
        // What it gives up is free; a version that is refused gives nothing up.
        let (after, refused) =
            table_after(&before, vec![("a", fake("a", &["x"]), None), ("z", fake("z2", &["y"]), fake("z", &["x"]))]);
        assert_eq!((routed(&after, "x"), routed(&after, "y"), refused.len()), (Some("a"), Some("z2"), 0));
        let (before, _) = table(vec![("k", fake("k", &["y"]), None), ("z", fake("z", &["x"]), None)]);
        let greedy = ("z", fake("z2", &["y"]), fake("z", &["x"]));
        let plugins = vec![("a", fake("a", &["x"]), None), ("k", fake("k", &["y"]), None), greedy];
        let (after, refused) = table_after(&before, plugins);
        assert_eq!((routed(&after, "x"), routed(&after, "y")), (Some("z"), Some("k")));
        assert_eq!(refused.keys().collect::<Vec<_>>(), ["a", "z"]);
    }

    #[test]
    fn a_pattern_covers_what_is_more_specific() {
        let covers = |one: &str, other: &str| one.parse::<TypePattern>().unwrap().covers(&other.parse().unwrap());
        for (one, other) in [("*", "a"), ("*", "a.*"), ("a.*", "a.b"), ("a.*", "a.b.*"), ("a", "a"), ("a.*", "a.*")] {
            assert!(covers(one, other), "{one} covers {other}");
        }
        for (one, other) in [("a", "*"), ("a.*", "*"), ("a.b", "a.*"), ("a.*", "a"), ("a.*", "ab"), ("a", "b")] {
            assert!(!covers(one, other), "{one} does not cover {other}");
        }
    }

    #[test]
    fn patterns_are_types_prefixes_or_everything() {
        for text in ["order.paid", "order.*", "a.b.*", "*", "USER_SIGNUP"] {
            assert_eq!(text.parse::<TypePattern>().unwrap().to_string(), text);
        }
        for text in ["", ".*", "order*", "*.paid", "or*er", "a b", "**"] {
            assert!(text.parse::<TypePattern>().is_err(), "{text:?} is not a pattern");
        }
    }
}
