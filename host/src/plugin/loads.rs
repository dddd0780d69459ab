//! Loading what a look at the directory found, side by side: none waits for another one's compilation but whoever is to be
//! compiled too.
//!
//! Nothing is started here: whoever looks polls what it got, and dropping that ends it, compilers included.

use std::collections::HashSet;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::Registry;
use super::directory::{self, Listed};
use super::take::Taken;

/// How many files are loaded at once. Each is in memory meanwhile.
pub(super) const MAX_LOADS: usize = 16;

/// What a look at the directory asks for.
#[derive(Debug)]
pub(super) struct Look {
    /// To be loaded.
    pub(super) load: Vec<(String, Listed)>,
    /// When to look again, if something is not ready yet.
    pub(super) again_in: Option<Duration>,
}

/// While one of these lives, a plugin is being loaded of which no version serves.
struct Preparing<'a>(&'a watch::Sender<usize>);

impl<'a> Preparing<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Preparing<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Registry {
    /// Looks at the directory and unloads what went. `finished` are names of files that are known to be written to their end.
    /// What is to be loaded is not looked at again: dropping it leaves it unloaded until it changes.
    pub(super) async fn look(&self, finished: &HashSet<OsString>) -> Option<Look> {
        let dir = self.options().dir.clone();
        let listing = match self.loader.machine.executor.run_blocking(move || directory::list(&dir)).await? {
            Ok(listing) => listing,
            Err(error) => {
                let dir = &self.options().dir;
                tracing::warn!("the plugin directory {dir:?} cannot be read, plugins stay: {error}");
                return None;
            }
        };
        let mut due = self.directory.lock().await.observe(listing, finished, self.settle(), Instant::now());
        if !due.unload.is_empty() {
            self.unload(&due.unload).await;
            let now = Instant::now();
            for heir in self.heirs() {
                self.directory.lock().await.look_again(&heir, now);
                due.look_again_in = Some(Duration::ZERO);
            }
        }
        Some(Look { load: due.load, again_in: due.look_again_in })
    }

    /// Loads a file that is due. Counts from now on, before it is polled, if nothing serves in its place.
    pub(super) fn load_due(&self, (name, listed): (String, Listed)) -> BoxFuture<'_, ()> {
        let is_new = self.entries().get(&name).is_none_or(|entry| entry.serving().is_none());
        let preparing = is_new.then(|| Preparing::begin(&self.preparing));
        Box::pin(async move {
            let _preparing = preparing;
            let Ok(_room) = self.loads.acquire().await else { return };
            if let Taken::MayPass(pause) = self.take(&name, listed).await {
                self.directory.lock().await.look_again(&name, Instant::now() + pause);
            }
        })
    }

    /// Looks at the directory and does what is due, to the end. Gives when to look again if something is not ready yet.
    pub(super) async fn refresh(&self, finished: &HashSet<OsString>) -> Option<Duration> {
        let Look { load, again_in } = self.look(finished).await?;
        let has_served = |(name, _): &(String, Listed)| self.history().is_some_and(|history| history.serves(name));
        let (served, new): (Vec<_>, Vec<_>) = load.into_iter().partition(has_served);
        for group in [served, new] {
            let mut under_way: FuturesUnordered<_> = group.into_iter().map(|due| self.load_due(due)).collect();
            while under_way.next().await.is_some() {}
            self.settle_routing();
        }
        again_in
    }
}
