//! Follows the plugin directory: at once when the system tells of a change, and every few seconds in any case, since
//! notifications get lost and some file systems give none.

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

use crate::plugin::PluginRegistry;

/// How long a burst of notifications is gathered before the directory is looked at.
const GATHER: Duration = Duration::from_millis(50);
/// Notifications that may wait; more of them say nothing new.
const WAITING_HINTS: usize = 256;

/// How changes of the directory are noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchMethod {
    /// The system tells of them; the directory is read every few seconds beside that.
    #[default]
    Notify,
    /// The directory is read every few seconds, and that is all: for file systems of a network, whose notifications do
    /// not tell of what other machines do.
    Poll,
}

/// Something changed; the name of a file if whoever wrote it has finished. Not its path: the system tells where it lies in
/// its own way, whatever the directory is called in the settings.
type ChangeHint = Option<OsString>;

impl PluginRegistry {
    /// Loads, reloads and unloads plugins as the directory changes, until it is told to stop. To be run once, by the
    /// owner of the registry.
    pub async fn watch(&self, stop: CancellationToken) {
        let (tell, hints) = mpsc::channel(WAITING_HINTS);
        let _watcher = match self.options().notice {
            WatchMethod::Poll => {
                drop(tell);
                None
            }
            WatchMethod::Notify => watcher(&self.options().dir, tell)
                .inspect_err(|error| {
                    let every_ms = self.options().rescan_ms;
                    tracing::warn!(
                        "changes of the plugin directory are not notified ({error}): looking every {every_ms} ms"
                    );
                })
                .ok(),
        };
        let (hand_over, mut due) = mpsc::unbounded_channel();
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
        // What is loaded goes on while the directory is looked at, and the other way round.
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(hints, hand_over) => {}
            () = load => {}
        }
    }

    /// Hands over what is to be loaded whenever the directory changed, without an end.
    async fn follow<'a>(
        &'a self,
        mut hints: mpsc::Receiver<ChangeHint>,
        hand_over: mpsc::UnboundedSender<BoxFuture<'a, ()>>,
    ) {
        let rescan = Duration::from_millis(self.options().rescan_ms.max(1));
        let mut wait = Duration::ZERO;
        loop {
            let mut finished = HashSet::new();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Without a watcher the channel is closed, and only the time passes.
                Some(hint) = hints.recv() => {
                    finished.extend(hint);
                    tokio::time::sleep(GATHER).await;
                    while let Ok(hint) = hints.try_recv() {
                        finished.extend(hint);
                    }
                }
            }
            let look = self.look(&finished).await;
            wait = look.as_ref().and_then(|look| look.again_in).map_or(rescan, |again_in| again_in.min(rescan));
            for due in look.into_iter().flat_map(|look| look.load) {
                // Whoever takes it ends together with this.
                let _ = hand_over.send(self.load_due(due));
            }
        }
    }
}

/// Tells of changes in the directory as long as it lives.
fn watcher(dir: &Path, tell: mpsc::Sender<ChangeHint>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let hints = match event {
            Ok(event) => hints(event),
            Err(_) => vec![None],
        };
        for hint in hints {
            // What does not fit any more is found by the look that the others cause.
            let _ = tell.try_send(hint);
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
