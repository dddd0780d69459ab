//! The start of a registry: events are accepted while the plugins of the directory are loaded.
//!
//! Until all of them are loaded, or have failed, the routing is incomplete. An event is handled only by a plugin that names
//! its very type. Any other event waits: in the lane of the plugin that is expected to handle it, else in the lane of types
//! without a plugin, from which nothing is claimed meanwhile.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::directory_scan;
use super::pattern_owners::PatternOwners;
use super::routing::{PluginVersions, RouteTable, RouteTarget, TypePattern};
use crate::event::EventType;
use crate::plugin::settings::PluginSettings;
use crate::plugin::{Plugin, PluginRegistry};

/// Whether the start is over, and what was in the directory when it began.
#[derive(Debug)]
pub(in crate::plugin) struct StartProgress {
    is_over: AtomicBool,
    expected: ExpectedPlugins,
}

/// What is known of the plugins in the directory before they are loaded.
#[derive(Debug, Default)]
pub(in crate::plugin) struct ExpectedPlugins(RouteTable<ExpectedPlugin>);

/// A plugin that is not loaded yet.
#[derive(Debug)]
struct ExpectedPlugin {
    name: String,
    patterns: Vec<TypePattern>,
}

impl RouteTarget for ExpectedPlugin {
    fn patterns(&self) -> &[TypePattern] {
        &self.patterns
    }
}

impl StartProgress {
    pub(in crate::plugin) fn new(expected: ExpectedPlugins) -> Self {
        Self { is_over: AtomicBool::new(false), expected }
    }
}

impl ExpectedPlugins {
    /// Reads which plugins a directory holds and what their settings say of types. Where they say nothing, the type that
    /// the file is named after is a guess. A wrong guess costs a wait, since a delivery in the wrong lane is moved to the
    /// right one. What cannot be read is left out: loading it says why. Blocks.
    pub(in crate::plugin) fn read(dir: &Path, settings: &BTreeMap<String, PluginSettings>) -> Self {
        let listing = directory_scan::list(dir).unwrap_or_default();
        let types = |name: &str, beside: Option<&Path>| {
            let beside = beside.and_then(|path| PluginSettings::parse(&std::fs::read_to_string(path).ok()?).ok());
            beside.and_then(|it| it.types).or_else(|| settings.get(name)?.types.clone())
        };
        let plugins = listing.into_iter().map(|(name, listed)| {
            let named_after = || name.parse().ok().map(TypePattern::Exact).into_iter().collect();
            let patterns = types(&name, listed.settings.as_deref()).unwrap_or_else(named_after);
            let plugin = Arc::new(ExpectedPlugin { name: name.clone(), patterns });
            (name, PluginVersions { newest: Some(plugin), last_good: None })
        });
        Self(RouteTable::of(&plugins.collect(), &PatternOwners::default(), |_| false).0)
    }
}

impl PluginRegistry {
    /// Loads what is in the directory. Whatever comes of it, the start is over then.
    pub async fn load_all(&self) {
        // Files that are being written at this moment are waited for, but not for ever. Only the waiting counts: while
        // one plugin is compiled, another one's file comes to rest.
        let mut patience = 2 * self.settle();
        while let Some(wait) = self.refresh(&HashSet::new()).await {
            let wait = wait.max(Duration::from_millis(1));
            let Some(left) = patience.checked_sub(wait) else { break };
            patience = left;
            tokio::time::sleep(wait).await;
        }
        self.start.is_over.store(true, Ordering::Release);
        self.preparing.send_modify(|count| *count = count.saturating_sub(1));
        self.note_change();
    }

    /// Whether plugins that were in the directory at the start are still being loaded.
    pub fn is_starting(&self) -> bool {
        !self.start.is_over.load(Ordering::Acquire)
    }

    /// The plugins that the start still has to load, by name.
    pub fn awaited(&self) -> Vec<String> {
        if !self.is_starting() {
            return Vec::new();
        }
        let entries = self.entries();
        let is_done = |name: &&String| entries.get(*name).is_some_and(|entry| entry.has_been_tried());
        self.start.expected.0.active().keys().filter(|name| !is_done(name)).cloned().collect()
    }

    /// The plugin that is expected to handle a type once it is loaded; `None` when the start is over.
    pub fn expected(&self, event_type: &EventType) -> Option<&str> {
        if !self.is_starting() {
            return None;
        }
        let expected = self.start.expected.0.route(event_type)?;
        // Of a plugin that serves it is known what it handles.
        self.serving(&expected.name).is_none().then_some(expected.name.as_str())
    }

    /// The plugins whose lanes may be claimed from. During the start, those are left out that have patterns: a more specific
    /// one may still come.
    pub fn claimable(&self) -> Vec<Arc<Plugin>> {
        let mut plugins = self.active();
        if self.is_starting() {
            plugins.retain(|plugin| plugin.patterns().iter().all(|pattern| matches!(pattern, TypePattern::Exact(_))));
        }
        plugins
    }

    /// Waits until a plugin handles the type, or it is certain that none of those does that the start loads.
    pub async fn routed(&self, event_type: &EventType) {
        let mut changes = self.changes();
        while self.is_starting() && self.route(event_type).is_none() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
