//! Which plugin handles which type: an exact name goes before the longest prefix, and a prefix before everything.
//!
//! A table is a pure function of the plugins and of the owners before. An owner keeps its types, whichever other plugins
//! name them too, until it serves without them. The order of names decides only where a type has no owner.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::event::{EventType, TypePattern};
use crate::plugin::Plugin;
use crate::plugin::data_dir::pattern_owners::PatternOwners;

/// The routing in force.
#[derive(Debug)]
pub(super) struct RouteTable<P = Plugin> {
    serving: BTreeMap<String, Arc<P>>,
    exact: HashMap<EventType, Arc<P>>,
    /// The longest prefix first.
    prefixes: Vec<(String, Arc<P>)>,
    any: Option<Arc<P>>,
}

/// The versions of a plugin that may serve.
#[derive(Debug)]
pub(super) struct PluginVersions<P = Plugin> {
    /// The version chosen last.
    pub(super) newest: Option<Arc<P>>,
    /// The version that served before.
    pub(super) last_good: Option<Arc<P>>,
}

/// What events can be routed to.
pub(super) trait RouteTarget {
    /// The types that it handles.
    fn patterns(&self) -> &[TypePattern];
}

impl RouteTarget for Plugin {
    fn patterns(&self) -> &[TypePattern] {
        &self.patterns
    }
}

impl<P> Default for RouteTable<P> {
    fn default() -> Self {
        Self { serving: BTreeMap::new(), exact: HashMap::new(), prefixes: Vec::new(), any: None }
    }
}

impl<P: RouteTarget> RouteTable<P> {
    /// The table for these plugins, and for each plugin whose newest version is refused the reason. Of two plugins that
    /// name one pattern, the owner before keeps it, even while it is away. Without an owner, the first by name gets it.
    /// A refused plugin goes on with its last good version if that one fits.
    pub(super) fn build(
        plugins: &BTreeMap<String, PluginVersions<P>>,
        before: &PatternOwners,
    ) -> (Self, BTreeMap<String, String>) {
        let owners_before: HashMap<&TypePattern, &str> = before.iter().collect();
        let mut conflicts = BTreeMap::new();
        let mut refusals: HashMap<&str, usize> = HashMap::new();
        loop {
            let candidates = plugins.iter().filter_map(|(name, PluginVersions { newest, last_good })| {
                let refused = refusals.get(name.as_str()).copied().unwrap_or(0);
                Some((name.as_str(), newest.iter().chain(last_good).nth(refused)?))
            });
            let candidates: Vec<(&str, &Arc<P>)> = candidates.collect();
            // Begins anew after each refusal: another version of the same plugin may need fewer patterns.
            let Some((name, pattern, owner)) = find_conflict(&candidates, &owners_before) else {
                let mut table = Self::default();
                candidates.iter().for_each(|(name, plugin)| table.add(name, plugin));
                table.prefixes.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
                return (table, conflicts);
            };
            let conflict = format!("{pattern} is handled by the plugin {owner:?} already; change the types of one");
            conflicts.entry(name.to_owned()).or_insert(conflict);
            *refusals.entry(name).or_default() += 1;
        }
    }

    fn add(&mut self, name: &str, plugin: &Arc<P>) {
        for pattern in plugin.patterns() {
            match pattern {
                TypePattern::Exact(event_type) => _ = self.exact.insert(event_type.clone(), plugin.clone()),
                TypePattern::Below(prefix) => self.prefixes.push((prefix.clone(), plugin.clone())),
                TypePattern::Any => self.any = Some(plugin.clone()),
            }
        }
        self.serving.insert(name.to_owned(), plugin.clone());
    }

    /// The plugin for a type.
    pub(super) fn route(&self, event_type: &EventType) -> Option<&Arc<P>> {
        let by_prefix = || {
            let found = self.prefixes.iter().find(|(prefix, _)| event_type.as_str().starts_with(prefix.as_str()));
            found.map(|(_, plugin)| plugin)
        };
        self.exact.get(event_type).or_else(by_prefix).or(self.any.as_ref())
    }

    /// The plugin that names exactly this type.
    pub(super) fn route_exact(&self, event_type: &EventType) -> Option<&Arc<P>> {
        self.exact.get(event_type)
    }

    /// The plugin that owns each pattern.
    pub(super) fn owners(&self) -> PatternOwners {
        let plugins = self.serving.iter();
        plugins.flat_map(|(name, plugin)| plugin.patterns().iter().map(|pattern| (pattern, name.as_str()))).collect()
    }

    /// The plugins that serve, by name.
    pub(super) fn serving(&self) -> &BTreeMap<String, Arc<P>> {
        &self.serving
    }
}

/// The first plugin that names a pattern of another owner, with the pattern and the owner.
fn find_conflict<'a, P: RouteTarget>(
    candidates: &[(&'a str, &'a Arc<P>)],
    owners_before: &HashMap<&'a TypePattern, &'a str>,
) -> Option<(&'a str, &'a TypePattern, &'a str)> {
    let named: HashSet<(&TypePattern, &str)> =
        candidates.iter().flat_map(|(name, plugin)| plugin.patterns().iter().map(|pattern| (pattern, *name))).collect();
    let serving: HashSet<&str> = candidates.iter().map(|(name, _)| *name).collect();
    let keeps = |(pattern, name): &(&&'a TypePattern, &&'a str)| {
        named.contains(&(**pattern, **name)) || !serving.contains(**name)
    };
    let mut owners: HashMap<&TypePattern, &str> =
        owners_before.iter().filter(keeps).map(|(pattern, name)| (*pattern, *name)).collect();
    candidates.iter().find_map(|(name, plugin)| {
        let conflict = plugin.patterns().iter().find_map(|pattern| {
            let owner = *owners.get(pattern)?;
            (owner != *name).then_some((*name, pattern, owner))
        });
        owners.extend(plugin.patterns().iter().map(|pattern| (pattern, *name)));
        conflict
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
        RouteTable::build(&versions, &before.owners())
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
    fn a_plugin_that_serves_keeps_its_types_whichever_others_name_them() {
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
        // Its absence gives nothing up.
        let (after, refused) = table_after(&before, vec![("a", fake("a", &["x"]), fake("old", &["w"]))]);
        assert_eq!((routed(&after, "x"), routed(&after, "w")), (None, Some("old")));
        assert!(refused["a"].contains("\"z\""), "{refused:?}");
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
