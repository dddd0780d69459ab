//! The deliveries that this process has handed out, and the renewal of their leases.
//!
//! An entry that Redis counts as pending for this consumer and that is missing here was never seen: the reply to its
//! claim was lost.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use super::client::StoreClient;
use super::connection::{RESPONSE_TIMEOUT, RedisLink, reply};
use super::lanes::LanePlaces;
use crate::broker::{Error, Lane, LeaseRenewal, Receipt};

/// The most entries of a newer format that are remembered. An entry that is not remembered is read again after each lease.
const MAX_UNREADABLE: usize = 10_000;

/// The deliveries that were handed out and have not ended.
#[derive(Debug, Default)]
pub(super) struct HandOvers {
    deliveries: Mutex<HashMap<(Lane, String), HandOver>>,
    unreadable: Mutex<HashSet<(Lane, String)>>,
}

/// How a delivery was handed out.
#[derive(Clone, Copy, Debug)]
struct HandOver {
    deliveries: u32,
    /// The size of the record in the lane.
    size_bytes: u64,
    /// It was found among the pending entries after the reply to its claim seemed lost.
    was_unseen: bool,
}

impl HandOvers {
    /// Adds a delivery before it is handed out; false if it was handed out already.
    ///
    /// An entry that was found again keeps its delivery count. So a reply that arrives late names the same delivery, and
    /// is recognized here.
    #[must_use]
    pub(super) fn insert(&self, lane: &Lane, entry: &str, deliveries: u32, size_bytes: u64, was_unseen: bool) -> bool {
        let mut held = self.lock();
        let handed = HandOver { deliveries, size_bytes, was_unseen };
        match held.entry((lane.clone(), entry.to_owned())) {
            Entry::Vacant(free) => {
                free.insert(handed);
            }
            Entry::Occupied(known) => {
                let known = known.into_mut();
                if known.deliveries >= deliveries && (known.was_unseen || was_unseen) {
                    return false;
                }
                *known = handed;
            }
        }
        true
    }

    /// Removes a delivery that ended. A later delivery of the same entry stays.
    pub(super) fn remove(&self, receipt: &Receipt) {
        let key = (receipt.lane.clone(), receipt.entry.clone());
        let mut deliveries = self.lock();
        if deliveries.get(&key).is_some_and(|handed| handed.deliveries <= receipt.deliveries) {
            deliveries.remove(&key);
        }
    }

    /// The size of a delivery's record in its lane; 0 if it is unknown.
    pub(super) fn size_bytes(&self, receipt: &Receipt) -> u64 {
        let key = (receipt.lane.clone(), receipt.entry.clone());
        self.lock().get(&key).map_or(0, |handed| handed.size_bytes)
    }

    pub(super) fn contains(&self, lane: &Lane, entry: &str) -> bool {
        self.lock().contains_key(&(lane.clone(), entry.to_owned()))
    }

    /// Remembers an entry that only a newer host can read, so that this one does not take it over again.
    pub(super) fn mark_unreadable(&self, lane: &Lane, entry: &str) {
        let mut unreadable = self.unreadable.lock();
        if unreadable.len() < MAX_UNREADABLE {
            unreadable.insert((lane.clone(), entry.to_owned()));
        }
    }

    pub(super) fn is_unreadable(&self, lane: &Lane, entry: &str) -> bool {
        let unreadable = self.unreadable.lock();
        !unreadable.is_empty() && unreadable.contains(&(lane.clone(), entry.to_owned()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Lane, String), HandOver>> {
        self.deliveries.lock()
    }
}

/// The most leases that one call renews.
const MAX_RECEIPTS: usize = 100;

/// Renews the leases of this consumer's deliveries.
pub(super) struct RedisLeaseRenewal {
    client: Arc<StoreClient>,
    hand_overs: Arc<HandOvers>,
    link: RedisLink,
}

impl RedisLeaseRenewal {
    /// Connects at the first renewal, because a connection belongs to the runtime that makes it.
    pub(super) fn new(client: Arc<StoreClient>, hand_overs: Arc<HandOvers>) -> Self {
        let link = client.link.sibling(RESPONSE_TIMEOUT);
        Self { client, hand_overs, link }
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
                self.hand_overs.remove(receipt);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    #[test]
    fn the_end_of_a_delivery_leaves_a_later_one_of_its_entry() {
        let held = HandOvers::default();
        let lane = Lane::unrouted();
        let receipt =
            |deliveries| Receipt { event_id: EventId::new(), lane: lane.clone(), entry: "1-0".into(), deliveries };
        assert!(held.insert(&lane, "1-0", 2, 9, false));
        held.remove(&receipt(1));
        assert!(held.contains(&lane, "1-0"));
        held.remove(&receipt(2));
        assert!(!held.contains(&lane, "1-0"));
    }

    #[test]
    fn a_late_reply_hands_out_no_entry_that_was_found_again() {
        let held = HandOvers::default();
        let lane = Lane::unrouted();
        assert!(held.insert(&lane, "1-0", 1, 9, true));
        assert!(!held.insert(&lane, "1-0", 1, 9, false), "the late reply");
        assert!(!held.insert(&lane, "1-0", 1, 9, true), "found twice at once");
        assert!(held.insert(&lane, "1-0", 2, 9, false), "its lease ended");
        assert!(held.insert(&lane, "1-0", 1, 9, false), "its group was destroyed and made again");
    }
}
