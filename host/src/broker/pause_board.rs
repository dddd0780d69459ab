//! A host's copy of the pauses, for the worker, which must not ask the store before each claim, and for the API.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{AuditNote, Error, Lane, PauseOutcome, PauseStore, PluginPause};

/// How often the store is asked. A pause holds on every host this long after its answer.
const READ_EVERY: Duration = Duration::from_millis(500);

/// The pauses as of the last reading.
pub struct PauseBoard {
    store: Arc<dyn PauseStore>,
    /// `None` until the first reading. Nothing may be handled before it, or a restart would end a pause.
    known: watch::Sender<Option<Arc<[PluginPause]>>>,
    /// One reading at a time, so that an older one does not replace a newer one.
    reading: Semaphore,
}

impl PauseBoard {
    /// A board that knows nothing yet.
    pub fn new(store: Arc<dyn PauseStore>) -> Self {
        Self { store, known: watch::Sender::new(None), reading: Semaphore::new(1) }
    }

    /// The pauses, ordered by plugin.
    pub fn pauses(&self) -> Arc<[PluginPause]> {
        self.known.borrow().clone().unwrap_or_default()
    }

    /// The pause of a plugin.
    pub fn pause_of(&self, plugin: &str) -> Option<PluginPause> {
        self.pauses().iter().find(|pause| pause.plugin.as_str() == plugin).cloned()
    }

    /// Whether a lane may not be handled now.
    pub fn is_paused(&self, lane: &Lane) -> bool {
        self.known.borrow().as_ref().is_none_or(|pauses| pauses.iter().any(|pause| pause.plugin == *lane))
    }

    /// Changes whenever the pauses do; `None` until they are known.
    pub fn changes(&self) -> watch::Receiver<Option<Arc<[PluginPause]>>> {
        self.known.subscribe()
    }

    /// Pauses a plugin. This host claims nothing more for it from the answer on.
    ///
    /// # Errors
    /// See [`PauseStore::write_pause`].
    pub async fn pause(&self, pause: PluginPause, audit: &AuditNote) -> Result<PauseOutcome, Error> {
        let outcome = self.store.write_pause(pause, Some(audit)).await?;
        self.refresh_soon().await;
        Ok(outcome)
    }

    /// Ends the pause of a plugin. `false` if it had none.
    ///
    /// # Errors
    /// See [`PauseStore::end_pause`].
    pub async fn resume(&self, plugin: &Lane, audit: &AuditNote) -> Result<bool, Error> {
        let ended = self.store.end_pause(plugin, Some(audit)).await?;
        self.refresh_soon().await;
        Ok(ended)
    }

    /// Reads the store.
    ///
    /// # Errors
    /// The store cannot be read; the board stays as it was.
    pub async fn refresh(&self) -> Result<(), Error> {
        let _turn = self.reading.acquire().await.map_err(|_| Error::refused("the pauses are no longer read"))?;
        let read = self.store.read_pauses().await?;
        self.known.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(&read[..]);
            if is_new {
                *known = Some(read.into());
            }
            is_new
        });
        Ok(())
    }

    /// The change is stored. If it cannot be read now, the next reading shows it.
    async fn refresh_soon(&self) {
        if let Err(error) = self.refresh().await {
            tracing::debug!("a changed pause cannot be read yet: {error}");
        }
    }

    /// Keeps the board up to date until `stop`.
    pub async fn keep_current(&self, stop: CancellationToken) {
        let mut fails = false;
        loop {
            match self.refresh().await {
                Ok(()) => fails = false,
                Err(error) if !fails => {
                    fails = true;
                    tracing::warn!("the pauses cannot be read: {error}; those that are known go on");
                }
                Err(_) => {}
            }
            if stop.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_none() {
                return;
            }
        }
    }
}
