//! Detects that the store lost data (G11).
//!
//! Two things tell it. The epoch is a key that is gone after a flush. The total of accepted events only grows, so a lower
//! total comes from an older copy of the data.

use std::sync::Arc;

use uuid::Uuid;

use super::client::StoreClient;
use super::connection::{CallFailure, LOSS, StoreMark, TroubleKind, reply};
use crate::broker::Error;

/// The epoch of the store and the highest total of accepted events that it ever reported.
pub(super) struct StoreEpoch {
    client: Arc<StoreClient>,
}

impl StoreEpoch {
    /// Knows no epoch yet.
    pub(super) fn new(client: Arc<StoreClient>) -> Self {
        Self { client }
    }

    /// The epoch that this process works with.
    pub(super) fn current(&self) -> Arc<str> {
        self.mark().epoch
    }

    /// The highest total of accepted events so far. Read it before a call whose total is compared with it.
    pub(super) fn accepted_seen(&self) -> u64 {
        self.mark().accepted
    }

    /// The epoch with its highest total.
    pub(super) fn mark(&self) -> StoreMark {
        self.client.link.vetting().mark()
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
            self.client.link.vetting().note_accepted(accepted);
        }
    }

    /// True if the store is as `before` or has accepted more, and no new connection has found a loss.
    pub(super) fn confirm(&self, found: &StoreMark, before: &StoreMark) -> bool {
        let vetting = self.client.link.vetting();
        let is_same = found.epoch == self.current() && !before.is_ahead_of(found) && !vetting.has_found_loss();
        if is_same {
            vetting.note_accepted(found.accepted);
        }
        is_same
    }

    /// Replaces the lost epoch by a new one, or joins the one that another host began. `lost` is empty at the start. True
    /// if this call counted the loss.
    pub(super) async fn adopt(&self, lost: &str) -> Result<bool, CallFailure> {
        let new = Uuid::now_v7().to_string();
        let call = self.client.script_call(&self.client.scripts.adopt).text(lost).text(&new);
        let [epoch, counted, accepted] = reply::tuple(self.client.call(&call).await?)?;
        let mark = StoreMark { epoch: reply::text(epoch)?.into(), accepted: reply::count(&accepted)? };
        self.client.link.vetting().set_mark(mark);
        Ok(reply::count(&counted)? > 0)
    }
}
