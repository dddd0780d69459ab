//! Detects that the store lost data (G11).
//!
//! Two things tell it. The epoch is a key that is gone after a flush. The total of accepted events only grows, so a lower
//! total comes from an older copy of the data.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use uuid::Uuid;

use super::client::StoreClient;
use super::connection::{CallFailure, LOSS, TroubleKind, reply};
use crate::broker::Error;

/// The epoch of the store and the highest total of accepted events that it ever reported.
pub(super) struct StoreEpoch {
    client: Arc<StoreClient>,
    epoch: ArcSwap<String>,
    accepted_seen: AtomicU64,
}

impl StoreEpoch {
    /// Knows no epoch yet.
    pub(super) fn new(client: Arc<StoreClient>) -> Self {
        Self { client, epoch: ArcSwap::default(), accepted_seen: AtomicU64::new(0) }
    }

    /// The epoch that this process works with.
    pub(super) fn current(&self) -> Guard<Arc<String>> {
        self.epoch.load()
    }

    /// The highest total of accepted events so far. Read it before a call whose total is compared with it.
    pub(super) fn accepted_seen(&self) -> u64 {
        self.accepted_seen.load(Ordering::SeqCst)
    }

    /// Fails while nothing may be accepted.
    ///
    /// # Errors
    /// [`Error::Unsafe`] after a loss of data and with settings that may lose data. Retry later.
    pub(super) fn ensure_accepting(&self) -> Result<(), Error> {
        let troubles = self.client.troubles();
        match troubles.message_of(TroubleKind::Loss).or_else(|| troubles.message_of(TroubleKind::Unsafe)) {
            Some(message) => Err(Error::Unsafe(message)),
            None => Ok(()),
        }
    }

    /// Raises the trouble after a script found another epoch, and returns the error for the caller.
    pub(super) fn report_loss(&self) -> Error {
        self.client.check_soon.notify_one();
        self.client.troubles().raise(TroubleKind::Loss, LOSS);
        Error::Unsafe(LOSS.into())
    }

    /// Notes a total that a script answered. A total lower than `seen_before` starts a health check.
    pub(super) fn note_accepted(&self, seen_before: u64, accepted: u64) {
        if accepted < seen_before {
            self.client.check_soon.notify_one();
        } else {
            self.accepted_seen.fetch_max(accepted, Ordering::SeqCst);
        }
    }

    /// True if the store has the known epoch and at least `seen_before` accepted events.
    pub(super) fn confirm(&self, epoch: &str, accepted: u64, seen_before: u64) -> bool {
        let is_same = epoch == **self.epoch.load() && accepted >= seen_before;
        if is_same {
            self.accepted_seen.fetch_max(accepted, Ordering::SeqCst);
        }
        is_same
    }

    /// Replaces the lost epoch by a new one, or joins the one that another host began. `lost` is empty at the start.
    pub(super) async fn adopt(&self, lost: &str) -> Result<(), CallFailure> {
        let new = Uuid::now_v7().to_string();
        let call = self.client.script_call(&self.client.scripts.adopt).text(lost).text(&new);
        let [epoch, _, accepted] = reply::tuple(self.client.call(&call).await?)?;
        self.epoch.store(Arc::new(reply::text(epoch)?));
        self.accepted_seen.store(reply::count(&accepted)?, Ordering::SeqCst);
        Ok(())
    }
}
