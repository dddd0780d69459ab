//! The start of a registry: the host accepts events while the registry loads the plugins of the directory.
//!
//! The routing is incomplete until each of them is loaded or has failed. Until then, only a plugin that names exactly the
//! type of an event handles it. Any other event waits: in the lane of the plugin that is expected to handle it, else in the
//! lane of types without a plugin. Nothing is claimed from that lane meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::plugin_registry::PluginRegistry;
use crate::event::{EventType, TypePattern};
use crate::plugin::Plugin;

impl PluginRegistry {
    /// Loads the plugins in the directory. The start is over then, whether they were loaded or failed.
    pub async fn load_all(&self) {
        // Waits for files that are being written, for twice the quiet time at most. Compiling does not count: the file of
        // another plugin may become quiet meanwhile.
        let mut patience = 2 * self.quiet_time();
        while let Some(wait) = self.refresh(&HashSet::new()).await {
            let wait = wait.max(Duration::from_millis(1));
            let Some(left) = patience.checked_sub(wait) else { break };
            patience = left;
            tokio::time::sleep(wait).await;
        }
        self.is_started.store(true, Ordering::Release);
        self.confirm_owners(&self.entries());
        self.save_owners().await;
        self.judge_again(false).await;
        self.preparing.send_modify(|count| *count = count.saturating_sub(1));
        self.note_change();
    }

    /// Whether plugins that were in the directory at the start are still being loaded.
    pub fn is_starting(&self) -> bool {
        !self.is_started.load(Ordering::Acquire)
    }

    /// The plugins that the start still has to load, by name.
    pub fn awaited(&self) -> Vec<String> {
        if !self.is_starting() {
            return Vec::new();
        }
        let entries = self.entries();
        self.expected.names.iter().filter(|name| self.is_pending(&entries, name)).cloned().collect()
    }

    /// The plugin that is expected to handle a type once it is loaded; `None` when the start is over.
    pub fn expected(&self, event_type: &EventType) -> Option<&str> {
        if !self.is_starting() {
            return None;
        }
        let name = self.expected.route(event_type)?;
        // The types of a plugin that serves are known.
        self.serving(name).is_none().then_some(name)
    }

    /// The plugins whose lanes may be claimed from. During the start, a plugin with a pattern such as `order.*` is left
    /// out: a plugin with a more specific one may follow.
    pub fn claimable(&self) -> Vec<Arc<Plugin>> {
        let mut plugins = self.active();
        if self.is_starting() {
            plugins.retain(|plugin| plugin.patterns().iter().all(|pattern| matches!(pattern, TypePattern::Exact(_))));
        }
        plugins
    }

    /// Waits until a plugin handles the type, or until the start is over.
    pub async fn routed(&self, event_type: &EventType) {
        let mut changes = self.changes();
        while self.is_starting() && self.route(event_type).is_none() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
