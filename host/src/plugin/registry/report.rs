//! What `GET /plugins` and the lines at the start say of a plugin, and of those that were removed last.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::entry::{HeldBuild, PluginEntry, PluginStatus, TakenTypes};
use crate::event::{Timestamp, TypePattern};
use crate::plugin::{AttemptLimits, Plugin, ReusePolicy};

/// A build that waits for an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeedsApproval {
    /// The SHA-256 of its file, in hexadecimal.
    pub digest: String,
    /// The interfaces that it imports and the version that serves does not, without their versions.
    pub imports: Vec<String>,
    /// The types that it would take from other plugins.
    pub takes: Vec<TakenTypes>,
}

/// The report on one plugin. What describes a version describes the one that serves.
#[derive(Clone, Debug)]
pub struct PluginReport {
    /// The name.
    pub name: String,
    /// How it stands.
    pub state: PluginStatus,
    /// Why the file in the directory does not serve, and what to do about it.
    pub error: Option<String>,
    /// After a rollback, the SHA-256 of the file in the directory, in hexadecimal. An earlier version serves in its place
    /// until the file changes.
    pub rolled_back_from: Option<String>,
    /// The build in the directory, if it waits for an approval.
    pub needs_approval: Option<NeedsApproval>,
    /// When the file went, by the clock of this host.
    pub removed_at: Option<Timestamp>,
    /// The SHA-256 of the file, in hexadecimal.
    pub digest: Option<String>,
    /// The version that the plugin gives itself.
    pub version: Option<String>,
    /// The description that the plugin gives of itself.
    pub description: Option<String>,
    /// The interface by which it takes events: ours, or that of another host.
    pub dialect: Option<String>,
    /// The types that it handles.
    pub types: Vec<TypePattern>,
    /// What an attempt may use.
    pub limits: Option<AttemptLimits>,
    /// How many attempts may run side by side on one host, if that is limited.
    pub concurrency: Option<usize>,
    /// How many of its events may wait in the deployment, if its settings say so.
    pub max_waiting: Option<u64>,
    /// How instances are reused, if they are.
    pub reuse: Option<ReusePolicy>,
    /// The size of the file.
    pub size_bytes: Option<u64>,
    /// How many calls were denied for want of a grant since it serves, by capability.
    pub denied: BTreeMap<&'static str, u64>,
    /// Since when it serves, by the clock of this host.
    pub loaded_at: Option<Timestamp>,
}

impl NeedsApproval {
    fn of(held: &HeldBuild) -> Self {
        Self { digest: held.digest.clone(), imports: held.added.imports.clone(), takes: held.added.takes.clone() }
    }
}

impl PluginReport {
    /// The report on a plugin whose file went.
    pub(super) fn removed(name: &str, at: Timestamp) -> Self {
        Self { removed_at: Some(at), ..Self::new(name, PluginStatus::Removed, None) }
    }

    /// The report on a plugin of which `serving` serves, if anything.
    pub(super) fn of(name: &str, entry: &PluginEntry, serving: Option<&Arc<Plugin>>) -> Self {
        let serving = serving.map(Arc::as_ref);
        Self {
            error: entry.problem(name, serving.map(Plugin::digest)),
            rolled_back_from: entry.rolled_back_from().map(str::to_owned),
            needs_approval: entry.held().map(NeedsApproval::of),
            ..Self::new(name, entry.status(serving.is_some()), serving)
        }
    }

    fn new(name: &str, state: PluginStatus, serving: Option<&Plugin>) -> Self {
        Self {
            name: name.to_owned(),
            state,
            error: None,
            rolled_back_from: None,
            needs_approval: None,
            removed_at: None,
            digest: serving.map(|plugin| plugin.digest().to_owned()),
            version: serving.and_then(|plugin| plugin.version.clone()),
            description: serving.and_then(|plugin| plugin.description.clone()),
            dialect: serving.map(|plugin| plugin.dialect().interface()),
            types: serving.map_or_else(Vec::new, |plugin| plugin.patterns.clone()),
            limits: serving.map(|plugin| *plugin.limits()),
            concurrency: serving.and_then(|plugin| plugin.concurrency),
            max_waiting: serving.and_then(|plugin| plugin.max_waiting),
            reuse: serving.and_then(|plugin| plugin.settings.reuse),
            size_bytes: serving.map(|plugin| plugin.size_bytes),
            denied: serving.map(Plugin::denied).unwrap_or_default(),
            loaded_at: serving.map(|plugin| plugin.loaded_at),
        }
    }
}

/// How many removed plugins are kept.
const MAX_REMOVED: usize = 100;

/// When the plugins that were removed last were removed, by name. A restart forgets them.
#[derive(Debug, Default)]
pub(super) struct RemovalRecord(Mutex<BTreeMap<String, Timestamp>>);

impl RemovalRecord {
    /// Notes that a plugin was removed. Beyond the limit, the oldest removal is forgotten.
    pub(super) fn add(&self, name: &str, at: Timestamp) {
        let mut names = self.names();
        names.insert(name.to_owned(), at);
        while names.len() > MAX_REMOVED {
            let Some(oldest) = names.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone()) else { return };
            names.remove(&oldest);
        }
    }

    /// Forgets a plugin that is there again.
    pub(super) fn forget(&self, name: &str) {
        self.names().remove(name);
    }

    pub(super) fn all(&self) -> BTreeMap<String, Timestamp> {
        self.names().clone()
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_removals_are_kept_until_the_plugins_are_back() {
        let removed = RemovalRecord::default();
        for n in 0..MAX_REMOVED as i64 + 2 {
            removed.add(&format!("p{n}"), Timestamp::from_unix_ms(n));
        }
        let names = removed.all();
        assert_eq!(names.len(), MAX_REMOVED);
        assert!(!names.contains_key("p0") && !names.contains_key("p1") && names.contains_key("p2"));
        removed.forget("p2");
        assert!(!removed.all().contains_key("p2"));
    }
}
