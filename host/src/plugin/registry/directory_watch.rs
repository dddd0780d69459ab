//! Follows the plugin directory: at once after a notification of the system, and every few seconds in any case.
//! Notifications get lost, and some file systems send none.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::options::WatchMethod;
use super::plugin_registry::PluginRegistry;

/// How long notifications are collected before the directory is scanned.
const COLLECT_TIME: Duration = Duration::from_millis(50);
/// How many notifications may wait. More of them add nothing.
const MAX_HINTS: usize = 256;

/// A change; with the name of a file if its writer has finished. Not the path: the system may name the directory otherwise
/// than the settings do.
type ChangeHint = Option<OsString>;

impl PluginRegistry {
    /// Loads, reloads and unloads plugins as the directory changes, until `stop` is cancelled. The owner of the registry
    /// runs it once.
    pub async fn watch(&self, stop: CancellationToken) {
        let (sender, hints) = mpsc::channel(MAX_HINTS);
        let _watcher = match self.options().watch {
            WatchMethod::Poll => {
                drop(sender);
                None
            }
            WatchMethod::Notify => watcher(&self.options().dir, sender)
                .inspect_err(|error| {
                    let every_ms = self.options().rescan_ms;
                    tracing::warn!(
                        "changes of the plugin directory are not notified ({error}): looking every {every_ms} ms"
                    );
                })
                .ok(),
        };
        let (due_sender, mut due) = mpsc::unbounded_channel();
        let load = async {
            let mut under_way = FuturesUnordered::new();
            loop {
                tokio::select! {
                    Some(load) = due.recv() => under_way.push(load),
                    Some(()) = under_way.next() => {}
                    else => return,
                }
            }
        };
        // Loads and scans go on side by side.
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(hints, due_sender) => {}
            () = load => {}
        }
    }

    /// Sends the loads that follow from each change of the directory. Never returns.
    async fn follow<'a>(
        &'a self,
        mut hints: mpsc::Receiver<ChangeHint>,
        due: mpsc::UnboundedSender<BoxFuture<'a, ()>>,
    ) {
        let rescan = Duration::from_millis(self.options().rescan_ms.max(1));
        let mut wait = Duration::ZERO;
        loop {
            let mut finished = HashSet::new();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Without a watcher the channel is closed, and only the timer fires.
                Some(hint) = hints.recv() => {
                    finished.extend(hint);
                    tokio::time::sleep(COLLECT_TIME).await;
                    while let Ok(hint) = hints.try_recv() {
                        finished.extend(hint);
                    }
                }
            }
            let scan = self.scan(&finished).await;
            wait = scan.as_ref().and_then(|scan| scan.rescan_in).map_or(rescan, |rescan_in| rescan_in.min(rescan));
            for load in scan.into_iter().flat_map(|scan| scan.load) {
                // The receiver ends together with this future.
                let _ = due.send(self.load_due(load));
            }
        }
    }
}

/// Sends a hint for each change in the directory until it is dropped.
fn watcher(dir: &Path, sender: mpsc::Sender<ChangeHint>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let hints = match event {
            Ok(event) => hints(event),
            Err(_) => vec![None],
        };
        for hint in hints {
            // A full channel needs no further hint: those in it cause a scan.
            let _ = sender.try_send(hint);
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn hints(event: notify::Event) -> Vec<ChangeHint> {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => {
            event.paths.iter().map(|path| path.file_name().map(OsString::from)).collect()
        }
        EventKind::Access(_) => Vec::new(),
        _ => vec![None],
    }
}
