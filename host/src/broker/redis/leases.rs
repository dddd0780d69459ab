//! Renewing leases, on a connection of its own and on whatever runtime asks.
//!
//! A renewal checks the receipt in the same step, so that it never takes a delivery back from another consumer. Every
//! call also shows that this consumer is alive, one without receipts included.

use std::sync::Arc;

use async_trait::async_trait;

use super::core::{LanePlaces, RedisCore};
use super::link::{RESPONSE_TIMEOUT, RedisLink};
use super::reply;
use crate::broker::{Error, LeaseRenewal, Receipt};

/// The most leases that one call renews.
const MAX_RECEIPTS: usize = 100;

/// See [`crate::broker::WorkQueue::lease_renewal`].
pub(super) struct RedisLeaseRenewal {
    core: Arc<RedisCore>,
    link: RedisLink,
}

impl RedisLeaseRenewal {
    /// Not connected yet: the connection belongs to the runtime on which it is made.
    pub(super) fn new(core: Arc<RedisCore>) -> Self {
        let link = core.link.sibling(RESPONSE_TIMEOUT);
        Self { core, link }
    }

    async fn renew_some(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, Error> {
        let core = &self.core;
        let mut places = LanePlaces::default();
        let mut call = core.script(&core.scripts.renew).text(&core.consumer);
        for receipt in receipts {
            call.push_number(places.of(&receipt.lane));
            call.push_text(&receipt.entry);
            call.push_number(receipt.deliveries);
        }
        let call = call.lane_keys(&core.keys, places.lanes());
        let lost = reply::array(self.link.call(&call).await?)?;
        let mut gone = Vec::with_capacity(lost.len());
        for place in lost {
            if let Some(receipt) = receipts.get(reply::place(&place)?) {
                core.held.remove(receipt);
                gone.push(receipt.clone());
            }
        }
        Ok(gone)
    }
}

#[async_trait]
impl LeaseRenewal for RedisLeaseRenewal {
    async fn renew(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, Error> {
        if receipts.is_empty() {
            return self.renew_some(receipts).await;
        }
        let mut lost = Vec::new();
        for some in receipts.chunks(MAX_RECEIPTS) {
            lost.extend(self.renew_some(some).await?);
        }
        Ok(lost)
    }
}
