//! Scanning the directory and doing what follows: unload, load, and look for files that match no plugin.
//!
//! Loads run side by side; the load tracks decide whose turn it is. This module starts no task: the caller polls the
//! loads, and dropping one ends it, its compiler included.
//!
//! The host accepts events while the start loads the plugins of the directory. The routing is incomplete until each of them
//! is loaded or has failed. Until then, only a plugin that names exactly the type of an event handles it. Any other event
//! waits: in the lane of the plugin that is expected to handle it, else in the lane of types without a plugin. Nothing is
//! claimed from that lane meanwhile.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::directory_scan::DueLoad;
use super::load_file::LoadOutcome;
use super::plugin_registry::PluginRegistry;
use super::{directory, unmatched};
use crate::event::{EventType, TypePattern};
use crate::plugin::Plugin;

/// What follows from a scan of the directory.
#[derive(Debug)]
pub(super) struct ScanResult {
    /// To be loaded. A file that is not loaded is due again only after a change.
    pub(super) load: Vec<(String, DueLoad)>,
    /// When to scan again, if a file is not ready yet.
    pub(super) rescan_in: Option<Duration>,
}

/// Counts a plugin of which no version serves while it is being loaded.
struct PreparingGuard<'a>(&'a watch::Sender<usize>);

impl<'a> PreparingGuard<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for PreparingGuard<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl PluginRegistry {
    /// Scans the directory and unloads the plugins whose files went. `finished` are the names of files whose writers are
    /// known to have finished. `None` if the directory cannot be read; then the plugins stay.
    pub(super) async fn scan(&self, finished: &HashSet<OsString>) -> Option<ScanResult> {
        let (dir, sections) = (self.options().dir.clone(), self.options().settings.clone());
        let removed = self.removed_names();
        let list = move || {
            let listing = directory::list(&dir)?;
            let plugins = listing.keys().cloned().collect();
            let unmatched = unmatched::find(&dir, &plugins, sections.keys(), &removed);
            Ok::<_, std::io::Error>((listing, unmatched))
        };
        let (listing, unmatched) = match self.loader.runtime.executor.run_blocking(list).await? {
            Ok(listing) => listing,
            Err(error) => {
                let dir = &self.options().dir;
                tracing::warn!("the plugin directory {dir:?} cannot be read, plugins stay: {error}");
                return None;
            }
        };
        let mut due = self.directory.lock().await.observe(listing, finished, self.quiet_time(), Instant::now());
        if let Some(again_in) = self.report_unmatched(unmatched) {
            due.rescan_in = Some(due.rescan_in.map_or(again_in, |other| other.min(again_in)));
        }
        if !due.unload.is_empty() {
            self.unload(&due.unload, false).await;
            if self.judge_again(true).await > 0 {
                due.rescan_in = Some(Duration::ZERO);
            }
        }
        Some(ScanResult { load: due.load, rescan_in: due.rescan_in })
    }

    /// Logs what matches no plugin. Returns when to look again, if something new may match a plugin soon.
    fn report_unmatched(&self, found: BTreeSet<String>) -> Option<Duration> {
        let (news, again_in) = self.unmatched.lock().observe(found, self.quiet_time(), Instant::now());
        for words in news {
            tracing::warn!("in the plugin directory and its settings: {words}");
        }
        again_in
    }

    /// Loads files that are due. If no version of the plugin serves, it counts as being prepared from this call on, even
    /// before the future is polled.
    pub(super) fn load_due(&self, (name, due): (String, DueLoad)) -> BoxFuture<'_, ()> {
        let is_new = self.chosen_version(&name).is_none();
        let preparing = is_new.then(|| PreparingGuard::new(&self.preparing));
        Box::pin(async move {
            let _preparing = preparing;
            let outcome = self.load_file(&name, due).await;
            match outcome {
                LoadOutcome::RetryAfter(pause) => {
                    self.directory.lock().await.retry(&name, Instant::now() + pause);
                }
                // A newer load follows.
                LoadOutcome::Obsolete => {}
                _ => self.change_owners(&self.entries(), |owners| owners.end_first_load(&name)),
            }
            self.judge_again(false).await;
            if !self.is_starting() {
                self.save_owners().await;
            }
        })
    }

    /// Scans the directory, and loads what is due to the end. Returns when to scan again, if a file is not ready yet.
    pub(super) async fn refresh(&self, finished: &HashSet<OsString>) -> Option<Duration> {
        let ScanResult { load, rescan_in } = self.scan(finished).await?;
        // Version lists of an earlier release hold no types, so those plugins go first: nothing says that they own any.
        let lacks_types = |(name, _): &(String, DueLoad)| {
            self.history().is_some_and(|history| history.serves(name) && history.types(name).is_none())
        };
        let (first, others): (Vec<_>, Vec<_>) = load.into_iter().partition(lacks_types);
        if !first.is_empty() {
            self.load_side_by_side(first).await;
            self.confirm_owners(&self.entries());
        }
        self.load_side_by_side(others).await;
        if self.judge_again(false).await > 0 { Some(Duration::ZERO) } else { rescan_in }
    }

    async fn load_side_by_side(&self, due: Vec<(String, DueLoad)>) {
        let mut under_way: FuturesUnordered<_> = due.into_iter().map(|due| self.load_due(due)).collect();
        while under_way.next().await.is_some() {}
    }

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
        let mut plugins = self.serving_plugins();
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
