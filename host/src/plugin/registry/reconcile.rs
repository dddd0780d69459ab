//! Loading what a look at the directory found, side by side; whose turn it is to be compiled is told in `lanes`.
//!
//! Nothing is started here: whoever looks polls what it got, and dropping that ends it, compilers included.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::directory_scan::{self, ListedFiles};
use super::load_file::LoadOutcome;
use super::overlooked;
use crate::plugin::PluginRegistry;

/// What a look at the directory asks for.
#[derive(Debug)]
pub(in crate::plugin) struct DirectoryLook {
    /// To be loaded.
    pub(in crate::plugin) load: Vec<(String, ListedFiles)>,
    /// When to look again, if something is not ready yet.
    pub(in crate::plugin) again_in: Option<Duration>,
}

/// While one of these lives, a plugin is being loaded of which no version serves.
struct LoadingGuard<'a>(&'a watch::Sender<usize>);

impl<'a> LoadingGuard<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for LoadingGuard<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl PluginRegistry {
    /// Looks at the directory and unloads what went. `finished` are names of files that are known to be written to their end.
    /// What is to be loaded is not looked at again: dropping it leaves it unloaded until it changes.
    pub(in crate::plugin) async fn look(&self, finished: &HashSet<OsString>) -> Option<DirectoryLook> {
        let (dir, given) = (self.options().dir.clone(), self.options().settings.clone());
        let gone = self.removed.all().into_keys().collect();
        let list = move || {
            let listing = directory_scan::list(&dir)?;
            let plugins = listing.keys().cloned().collect();
            let overlooked = overlooked::find(&dir, &plugins, given.keys(), &gone);
            Ok::<_, std::io::Error>((listing, overlooked))
        };
        let (listing, overlooked) = match self.loader.machine.executor.run_blocking(list).await? {
            Ok(listing) => listing,
            Err(error) => {
                let dir = &self.options().dir;
                tracing::warn!("the plugin directory {dir:?} cannot be read, plugins stay: {error}");
                return None;
            }
        };
        let mut due = self.directory.lock().await.observe(listing, finished, self.settle(), Instant::now());
        if let Some(again_in) = self.tell_overlooked(overlooked) {
            due.look_again_in = Some(due.look_again_in.map_or(again_in, |other| other.min(again_in)));
        }
        if !due.unload.is_empty() {
            self.unload(&due.unload).await;
            let now = Instant::now();
            for heir in self.heirs() {
                self.directory.lock().await.look_again(&heir, now);
                due.look_again_in = Some(Duration::ZERO);
            }
        }
        for (name, _) in &due.load {
            self.reserve(name);
        }
        Some(DirectoryLook { load: due.load, again_in: due.look_again_in })
    }

    /// Tells of what is for no plugin. Gives when to look again, if it may yet be for one.
    fn tell_overlooked(&self, found: BTreeSet<String>) -> Option<Duration> {
        let mut overlooked = self.overlooked.lock();
        let (told, again_in) = overlooked.observe(found, self.settle(), Instant::now());
        for words in told {
            tracing::warn!("in the plugin directory and its settings: {words}");
        }
        again_in
    }

    /// Loads a file that is due. Counts from now on, before it is polled, if nothing serves in its place.
    pub(in crate::plugin) fn load_due(&self, (name, listed): (String, ListedFiles)) -> BoxFuture<'_, ()> {
        let is_new = self.entries().get(&name).is_none_or(|entry| entry.serving().is_none());
        let preparing = is_new.then(|| LoadingGuard::begin(&self.preparing));
        Box::pin(async move {
            let _preparing = preparing;
            let taken = self.take(&name, listed).await;
            // What another look has begun meanwhile ends by itself.
            if taken != LoadOutcome::Overtaken {
                self.end_reservation(&name);
            }
            if let LoadOutcome::MayPass(pause) = taken {
                self.directory.lock().await.look_again(&name, Instant::now() + pause);
            }
        })
    }

    /// Looks at the directory and does what is due, to the end. Gives when to look again if something is not ready yet.
    pub(in crate::plugin) async fn refresh(&self, finished: &HashSet<OsString>) -> Option<Duration> {
        let DirectoryLook { load, again_in } = self.look(finished).await?;
        // Of lists of versions that an earlier release wrote it is not known which types are to be kept.
        let is_unsure = |(name, _): &(String, ListedFiles)| {
            self.history().is_some_and(|history| history.serves(name) && history.types(name).is_none())
        };
        let (unsure, others): (Vec<_>, Vec<_>) = load.into_iter().partition(is_unsure);
        for group in [unsure, others] {
            let mut under_way: FuturesUnordered<_> = group.into_iter().map(|due| self.load_due(due)).collect();
            while under_way.next().await.is_some() {}
            self.settle_routing();
        }
        again_in
    }
}
