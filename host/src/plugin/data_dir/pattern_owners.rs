//! Which plugin owns which types. A restart does not change it, and neither does the absence of the owner.
//!
//! A plugin that serves owns its types. It keeps them while its file is away or cannot be loaded, until it serves without
//! them or a person gives them to another plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::private_dir::PrivateDir;
use crate::event::TypePattern;

/// The file in the directory of the versions. No plugin has such a name.
const FILE: &str = ".owners.json";
/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// The plugin that owns each pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::plugin) struct PatternOwners {
    owners: BTreeMap<TypePattern, String>,
    /// The plugins that were in the directory at the first start and have not been loaded yet. They take types freely.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    first_files: BTreeSet<String>,
}

impl<'a> FromIterator<(&'a TypePattern, &'a str)> for PatternOwners {
    /// The first of several owners of one pattern keeps it.
    fn from_iter<I: IntoIterator<Item = (&'a TypePattern, &'a str)>>(pairs: I) -> Self {
        let mut owners = BTreeMap::new();
        for (pattern, name) in pairs {
            owners.entry(pattern.clone()).or_insert_with(|| name.to_owned());
        }
        Self { owners, first_files: BTreeSet::new() }
    }
}

impl PatternOwners {
    /// The owners at the first start with these plugins in the directory: nobody owns anything.
    pub(in crate::plugin) fn at_first_start(plugins: BTreeSet<String>) -> Self {
        Self { owners: BTreeMap::new(), first_files: plugins }
    }

    /// Each pattern with the name of its owner.
    pub(in crate::plugin) fn iter(&self) -> impl Iterator<Item = (&TypePattern, &str)> {
        self.owners.iter().map(|(pattern, name)| (pattern, name.as_str()))
    }

    /// Whether a plugin owns something.
    pub(in crate::plugin) fn owns_any(&self, name: &str) -> bool {
        self.owners.values().any(|owner| owner == name)
    }

    /// The other plugin that owns this very pattern.
    pub(in crate::plugin) fn rival(&self, name: &str, pattern: &TypePattern) -> Option<&str> {
        self.owners.get(pattern).map(String::as_str).filter(|owner| *owner != name)
    }

    /// The other plugin that would lose events if the plugin `name` handled a pattern: the owner of the most specific
    /// pattern that covers this one. Routing refuses a pattern whose owner serves, so only an owner that is away loses it.
    pub(in crate::plugin) fn find_loser(
        &self,
        name: &str,
        pattern: &TypePattern,
        is_away: impl Fn(&str) -> bool,
    ) -> Option<&str> {
        let above = self.iter().filter(|(theirs, _)| theirs.covers(pattern));
        let (nearest, owner) = above.max_by_key(|(theirs, _)| theirs.specificity())?;
        let loses = owner != name && (nearest != pattern || is_away(owner));
        (loses && !self.first_files.contains(name)).then_some(owner)
    }

    /// Notes the plugins that serve: each owns its patterns and nothing else. The others keep theirs.
    pub(in crate::plugin) fn update(&mut self, serving: &Self, serves: impl Fn(&str) -> bool) {
        self.owners.retain(|_, owner| !serves(owner));
        self.owners.extend(serving.owners.clone());
    }

    /// Gives patterns to a plugin.
    pub(in crate::plugin) fn give(&mut self, name: &str, patterns: impl IntoIterator<Item = TypePattern>) {
        self.owners.extend(patterns.into_iter().map(|pattern| (pattern, name.to_owned())));
    }

    /// Takes everything from a plugin.
    pub(in crate::plugin) fn release(&mut self, name: &str) {
        self.owners.retain(|_, owner| owner != name);
    }

    /// Notes that a plugin was loaded, or went: from now on it takes no types freely.
    pub(in crate::plugin) fn end_first_load(&mut self, name: &str) {
        self.first_files.remove(name);
    }
}

/// The file that keeps the owners for the next start.
pub(in crate::plugin) struct OwnersFile {
    dir: PrivateDir,
    saved: Mutex<Option<PatternOwners>>,
}

impl OwnersFile {
    /// Reads the file. `None` if there is none. Blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn open(dir: PrivateDir) -> (Self, io::Result<Option<PatternOwners>>) {
        let read = dir.read(FILE, MAX_FILE_BYTES).and_then(|content| {
            content
                .map(|content| serde_json::from_slice::<PatternOwners>(&content))
                .transpose()
                .map_err(io::Error::from)
        });
        let saved = Mutex::new(read.as_ref().ok().cloned().flatten());
        (Self { dir, saved }, read)
    }

    /// Writes the owners of now, unless the file has them. Blocks.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(in crate::plugin) fn save(&self, owners: &ArcSwap<PatternOwners>) -> io::Result<()> {
        // Read under the lock, so that the write that ends last has the latest owners.
        let mut saved = self.saved.lock();
        let owners: Arc<PatternOwners> = owners.load_full();
        if saved.as_ref() != Some(&*owners) {
            self.dir.write(FILE, &[&serde_json::to_vec(&*owners)?])?;
            *saved = Some((*owners).clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TypePattern {
        text.parse().unwrap()
    }

    fn owners(of: &[(&str, &str)]) -> PatternOwners {
        let of: Vec<_> = of.iter().map(|(text, name)| (pattern(text), *name)).collect();
        of.iter().map(|(pattern, name)| (pattern, *name)).collect()
    }

    #[test]
    fn the_owner_of_the_most_specific_covering_pattern_would_lose_events() {
        let mut owners = owners(&[
            ("*", "all"),
            ("order.*", "orders"),
            ("order.eu.*", "europe"),
            ("order.paid", "paid"),
            ("gone.*", "gone"),
            ("gone.a", "orders"),
        ]);
        owners.first_files.insert("first".into());
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
            ("new", "gone.*", Some("gone")),
            ("new", "gone.b", Some("gone")),
            ("new", "gone.a", None),
            ("gone", "gone.*", None),
            ("orders", "gone.*", Some("gone")),
            ("first", "order.sent", None),
            ("first", "gone.*", None),
        ] {
            let loser = owners.find_loser(name, &pattern(text), |name| name == "gone");
            assert_eq!(loser, expected, "{name} handles {text}");
        }
        assert_eq!(PatternOwners::default().find_loser("new", &pattern("a"), |_| true), None);
    }

    #[test]
    fn only_a_plugin_that_serves_without_its_types_gives_them_up() {
        let before = owners(&[("a", "away"), ("b", "changed"), ("c", "same")]);
        let serving = owners(&[("d", "changed"), ("c", "same"), ("e", "new")]);
        let mut after = before;
        after.update(&serving, |name| name != "away");
        assert_eq!(after, owners(&[("a", "away"), ("c", "same"), ("d", "changed"), ("e", "new")]));
        assert_eq!((after.rival("new", &pattern("a")), after.rival("away", &pattern("a"))), (Some("away"), None));
        after.give("new", [pattern("a")]);
        assert!(!after.owns_any("away") && after.rival("away", &pattern("a")) == Some("new"));
        after.release("new");
        assert_eq!(after, owners(&[("c", "same"), ("d", "changed")]));
    }

    #[test]
    fn the_owners_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let open = || OwnersFile::open(PrivateDir::open(&folder.path().join("kept")).unwrap());
        let (file, read) = open();
        assert_eq!(read.unwrap(), None);
        let mut kept = PatternOwners::at_first_start(["x".to_owned()].into());
        kept.give("a", [pattern("order.*"), pattern("*")]);
        file.save(&ArcSwap::from_pointee(kept.clone())).unwrap();
        assert_eq!(open().1.unwrap(), Some(kept.clone()));
        kept.end_first_load("x");
        assert!(kept.first_files.is_empty());
        file.dir.write(FILE, &[b"{"]).unwrap();
        assert!(open().1.is_err());
    }
}
