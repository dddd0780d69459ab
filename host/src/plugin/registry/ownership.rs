//! Who owns which types: what a build would take from others, and what follows once an owner is away.
//!
//! [`PatternOwners`] decides. The owners change under the lock of
//! the entries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::change_refusal::ChangeRefusal;
use super::entry::{PluginEntry, describe_owned};
use super::plugin_registry::PluginRegistry;
use crate::event::TypePattern;
use crate::plugin::Plugin;
use crate::plugin::data_dir::pattern_owners::PatternOwners;
use crate::plugin_report::TakenTypes;

type Entries = BTreeMap<String, PluginEntry>;

impl PluginRegistry {
    /// The types that a build would take from other plugins without permission. An approval gives permission, and so does
    /// `[plugins.NAME]` in the settings of this server.
    pub(super) fn unapproved_types(&self, name: &str, build: &Plugin) -> Vec<TakenTypes> {
        if !self.options().hold_taken_types {
            return Vec::new();
        }
        let serving = self.chosen_version(name);
        let given = self.options().settings.get(name).and_then(|settings| settings.types.as_ref());
        // Version lists of an earlier release hold no types.
        let is_unlisted =
            self.history().is_some_and(|it| it.types(name).is_none() && it.has_served(name, build.digest()));
        let is_its_own = |pattern: &&TypePattern| {
            serving.as_ref().is_some_and(|serving| serving.patterns().contains(pattern))
                || given.is_some_and(|types| types.contains(pattern))
        };
        let patterns = build.patterns().iter().filter(|pattern| !is_unlisted && !is_its_own(pattern));
        self.taken_from_others(&self.entries(), name, patterns)
    }

    /// Those of the types that another plugin owns, each with that plugin.
    fn taken_from_others<'a>(
        &self,
        entries: &Entries,
        name: &str,
        patterns: impl Iterator<Item = &'a TypePattern>,
    ) -> Vec<TakenTypes> {
        let owners = self.owners.load();
        let taken = patterns.filter_map(|pattern| {
            let loser = owners.find_loser(name, pattern, |owner| self.is_away(entries, owner))?;
            Some(TakenTypes { types: pattern.clone(), plugin: loser.to_owned() })
        });
        taken.collect()
    }

    /// The types of a version that other plugins own, each with its owner. Routing refuses the version for those whose
    /// owners are there; `with_away` adds the others.
    pub(super) fn owned_by_others(
        &self,
        entries: &Entries,
        name: &str,
        version: &Plugin,
        with_away: bool,
    ) -> Vec<TakenTypes> {
        let owners = self.owners_now();
        let owned = version.patterns().iter().filter_map(|pattern| {
            let owner = owners.rival(name, pattern).filter(|owner| with_away || !self.is_away(entries, owner))?;
            Some(TakenTypes { types: pattern.clone(), plugin: owner.to_owned() })
        });
        owned.collect()
    }

    /// Refuses a version for the types of [`Self::owned_by_others`].
    pub(super) fn require_own_types(
        &self,
        entries: &Entries,
        name: &str,
        version: &Plugin,
        with_away: bool,
    ) -> Result<(), ChangeRefusal> {
        let owned = self.owned_by_others(entries, name, version, with_away);
        if owned.is_empty() {
            return Ok(());
        }
        let (digest, owned) = (version.digest().to_owned(), describe_owned(&owned));
        Err(ChangeRefusal::Owned { name: name.to_owned(), digest, owned })
    }

    /// Whether a version would take types from other plugins, or routing would refuse it for theirs.
    pub(super) fn takes_types(&self, name: &str, version: &Plugin) -> bool {
        !self.unapproved_types(name, version).is_empty()
            || !self.owned_by_others(&self.entries(), name, version, false).is_empty()
    }

    /// Those of the types that no other plugin owns.
    pub(super) fn not_owned_by_others(&self, name: &str, mut types: Vec<TypePattern>) -> Vec<TypePattern> {
        let owners = self.owners_now();
        types.retain(|pattern| owners.rival(name, pattern).is_none());
        types
    }

    /// Whether the file of a plugin is being loaded, or will be at this start.
    pub(super) fn is_pending(&self, entries: &Entries, name: &str) -> bool {
        match entries.get(name) {
            Some(entry) => !entry.has_been_attempted(),
            None => self.is_starting() && self.expected.names.contains(name),
        }
    }

    fn is_away(&self, entries: &Entries, name: &str) -> bool {
        self.serving(name).is_none() && !self.is_pending(entries, name)
    }

    /// Gives a plugin those of its types whose owners are away, unless routing refuses the build for others. Either nothing
    /// forbids that, or a person allowed it.
    pub(super) fn take_over(&self, entries: &Entries, name: &str, build: &Plugin) {
        if self.owned_by_others(entries, name, build, false).is_empty() {
            let free = self.owned_by_others(entries, name, build, true);
            self.change_owners(entries, |owners| owners.give(name, free.into_iter().map(|free| free.types)));
        }
    }

    /// Gives the plugins that serve now precedence over those that are loaded from now on.
    pub(super) fn confirm_owners(&self, entries: &Entries) {
        let owners = self.owners_now();
        self.change_owners(entries, |before| *before = owners);
    }

    /// The owners, those included who serve without having been confirmed yet.
    fn owners_now(&self) -> PatternOwners {
        let (table, mut owners) = (self.table.load(), (**self.owners.load()).clone());
        owners.update(&table.owners(), |name| table.serving().contains_key(name));
        owners
    }

    /// Keeps the owners for the next start. A failure is logged.
    pub(super) async fn save_owners(&self) {
        let Some(data_dir) = self.loader.data_dir.clone() else { return };
        let owners = self.owners.clone();
        let saved = self.loader.runtime.executor.run_blocking(move || data_dir.owners.save(&owners)).await;
        if let Some(Err(error)) = saved {
            tracing::warn!("which plugin owns which types is not kept for the next start: {error}");
        }
    }

    /// Changes the owners. The lock of the entries keeps other changes out.
    pub(super) fn change_owners(&self, _entries: &Entries, change: impl FnOnce(&mut PatternOwners)) {
        let mut owners = (**self.owners.load()).clone();
        change(&mut owners);
        self.owners.store(Arc::new(owners));
    }

    /// Has the files of plugins loaded once more on which another plugin's absence or presence decides. Returns how many
    /// wait for that. `records` also chooses those that serve since another one gave way, which the history does not list.
    pub(super) async fn judge_again(&self, records: bool) -> usize {
        let (names, waiting) = {
            let mut entries = self.entries();
            let is_unrecorded = |name: &str| {
                records && self.serving(name).is_some() && self.history().is_some_and(|history| !history.serves(name))
            };
            let names = entries.keys().filter(|name| is_unrecorded(name) || self.is_open(&entries, name));
            let mut names: Vec<String> = names.cloned().collect();
            let waiting = names.len();
            // The others wait already.
            names.retain(|name| entries.get_mut(name).is_some_and(PluginEntry::forget_attempt));
            (names, waiting)
        };
        let mut directory = self.directory.lock().await;
        names.iter().for_each(|name| directory.retry(name, Instant::now()));
        waiting
    }

    /// Whether the verdict on a plugin's file is another one by now: routing refuses types whose owner is away, or others
    /// own by now what the build is held for.
    fn is_open(&self, entries: &Entries, name: &str) -> bool {
        let Some(entry) = entries.get(name).filter(|entry| entry.has_been_attempted()) else { return false };
        let owners = self.owners.load();
        let is_refused = |build: &Arc<Plugin>| {
            let mut rivals = build.patterns().iter().filter_map(|pattern| owners.rival(name, pattern));
            rivals.any(|rival| self.is_away(entries, rival))
        };
        let is_held = |takes: &[TakenTypes]| {
            let types = takes.iter().map(|taken| &taken.types);
            self.taken_from_others(entries, name, types) != takes
        };
        entry.refused().is_some_and(is_refused) || entry.held().is_some_and(|held| is_held(&held.added.takes))
    }
}
