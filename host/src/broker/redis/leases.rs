//! Renews leases, on a connection of its own and on any runtime.
//!
//! The script checks each receipt in the step that renews it, so a renewal never takes a delivery back from another
//! consumer. Every call also counts as a heartbeat of this consumer, even without receipts.

use std::sync::Arc;

use async_trait::async_trait;

use super::client::StoreClient;
use super::connection::{RESPONSE_TIMEOUT, RedisLink, reply};
use super::holdings::Holdings;
use super::lanes::LanePlaces;
use crate::broker::{Error, LeaseRenewal, Receipt};

/// The most leases that one call renews.
const MAX_RECEIPTS: usize = 100;

/// Renews the leases of this consumer's deliveries.
pub(super) struct RedisLeaseRenewal {
    client: Arc<StoreClient>,
    holdings: Arc<Holdings>,
    link: RedisLink,
}

impl RedisLeaseRenewal {
    /// Connects at the first renewal, because a connection belongs to the runtime that makes it.
    pub(super) fn new(client: Arc<StoreClient>, holdings: Arc<Holdings>) -> Self {
        let link = client.link.sibling(RESPONSE_TIMEOUT);
        Self { client, holdings, link }
    }

    async fn renew_chunk(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, Error> {
        let client = &self.client;
        let mut places = LanePlaces::default();
        let mut call = client.script_call(&client.scripts.renew).text(&client.consumer);
        for receipt in receipts {
            call.push_number(places.place_of(&receipt.lane));
            call.push_text(&receipt.entry);
            call.push_number(receipt.deliveries);
        }
        let call = call.lane_keys(&client.keys, places.lanes());
        let indexes = reply::array(self.link.call(&call).await?)?;
        let mut lost = Vec::with_capacity(indexes.len());
        for index in indexes {
            if let Some(receipt) = receipts.get(reply::index(&index)?) {
                self.holdings.remove(receipt);
                lost.push(receipt.clone());
            }
        }
        Ok(lost)
    }
}

#[async_trait]
impl LeaseRenewal for RedisLeaseRenewal {
    async fn renew(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, Error> {
        if receipts.is_empty() {
            return self.renew_chunk(receipts).await;
        }
        let mut lost = Vec::new();
        for chunk in receipts.chunks(MAX_RECEIPTS) {
            lost.extend(self.renew_chunk(chunk).await?);
        }
        Ok(lost)
    }
}
