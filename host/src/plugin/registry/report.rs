//! What `GET /plugins` and the lines at the start say of a plugin, and of those that were removed last.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::entry::{HeldBuild, PluginEntry};
use crate::event::Timestamp;
use crate::plugin::Plugin;
use crate::plugin_report::{NeedsApproval, PluginReport, PluginStatus, ReuseReport};

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

    fn new(name: &str, status: PluginStatus, serving: Option<&Plugin>) -> Self {
        Self {
            name: name.to_owned(),
            status,
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
            reuse: serving
                .and_then(|plugin| plugin.settings.reuse)
                .map(|reuse| ReuseReport { max_events: reuse.max_events.get(), idle_ms: reuse.idle_ms }),
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
