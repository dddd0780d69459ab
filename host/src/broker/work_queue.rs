//! The work queue: hands out deliveries and takes back their results.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{AppendRequest, Error, Lane};
use crate::event::{EventId, EventRecord, Settlement, StateChanges};

/// Hands out deliveries and takes back their results.
#[async_trait]
pub trait WorkQueue: Send + Sync + 'static {
    /// Claims deliveries that wait: at most `free` of each lane and `max` in all, shared out fairly among the lanes.
    /// Answers at once, with nothing if nothing waits.
    async fn claim(&self, claim: ClaimRequest) -> Result<Vec<Delivery>, Error>;

    /// Waits until a delivery may wait in one of the lanes, and at most about a second. May return early.
    async fn wait_for_work(&self, lanes: &[Lane]) -> Result<(), Error>;

    /// Settles deliveries. The answers are in the order of the batch.
    ///
    /// Repeat the call with the same receipts if the answer was lost: a settle that took effect is answered with
    /// [`SettleOutcome::Done`] again and takes effect once. After [`SettleOutcome::Conflict`] the consumer still holds
    /// the delivery.
    async fn settle(&self, batch: Vec<SettleRequest>) -> Result<Vec<SettleOutcome>, Error>;

    /// What renews leases. It has its own connection, and works on another runtime than the queue's.
    fn lease_renewal(&self) -> Arc<dyn LeaseRenewal>;

    /// Takes over at most `max` deliveries whose consumer died or lost its lease, and those of this consumer whose
    /// claim was never answered. Each takeover raises the delivery count. Deliveries in lanes that only other consumers
    /// serve are left to them.
    async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error>;

    /// Moves events that are due to their lanes. Call it again at once if `more` is true, else after `next_due_in_ms`.
    async fn promote(&self) -> Result<PromoteOutcome, Error>;

    /// Deletes ended events past their retention and dead consumers that hold nothing, learns of new lanes, and shows
    /// that this consumer is alive.
    ///
    /// Call it every second, and at least four times in a lease. `true` means that more is left: call it again at once,
    /// since events that end faster than they are deleted would fill the store.
    async fn maintain(&self) -> Result<bool, Error>;

    /// The lanes that exist in the store, whether or not a plugin of this host belongs to them.
    fn lanes(&self) -> Vec<Lane>;

    /// Sets how many events may wait in each of these lanes, and forgets the limits set before. Every other lane may
    /// hold a fifth of [`super::BrokerOptions::max_waiting`].
    fn limit_lanes(&self, limits: BTreeMap<Lane, u64>);
}

/// Renews leases; see [`WorkQueue::lease_renewal`].
#[async_trait]
pub trait LeaseRenewal: Send + Sync + 'static {
    /// Renews the leases of these deliveries, and returns the receipts that this consumer no longer holds. Cancel the
    /// handlers of those: their outcomes will change nothing. Never takes a delivery back from another consumer.
    ///
    /// # Errors
    /// The store did not answer, so no lease is known to be renewed or lost. Try again.
    async fn renew(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, Error>;
}

/// A request for deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The lanes that have free slots, in the order of their turns.
    pub lanes: Vec<LaneDemand>,
    /// The host's own free slots.
    pub max: usize,
}

/// How many deliveries of a lane are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneDemand {
    /// The lane.
    pub lane: Lane,
    /// Its free slots.
    pub free: usize,
}

/// One hand-over of an event to this consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The event and its attempts.
    pub record: EventRecord,
    /// Proof that this consumer holds the delivery.
    pub receipt: Receipt,
    /// How often the entry was delivered, this time included. Above 1, a consumer died or lost its lease on it.
    pub deliveries: u32,
}

impl Delivery {
    /// The number of this attempt; 1 for the first since the event was accepted or last replayed.
    pub fn attempt(&self) -> u32 {
        self.record.attempts_made.saturating_add(self.deliveries)
    }

    /// How many deliveries in a row ended without a settle, plus this one. Deliveries in a lane that the event has left
    /// count as well.
    pub fn deliveries_in_a_row(&self) -> u32 {
        self.record.lost_attempts().saturating_add(self.deliveries)
    }
}

/// Proof of a delivery to this consumer: entry and delivery count together (G4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The event.
    pub event_id: EventId,
    /// The lane of the entry.
    pub lane: Lane,
    /// The store's name for the entry.
    pub entry: String,
    /// The delivery count at the hand-over.
    pub deliveries: u32,
}

/// What a consumer wants done with a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct SettleRequest {
    /// Proof that this consumer holds it.
    pub receipt: Receipt,
    /// The record with the attempt and, if the event ended, its end.
    pub record: EventRecord,
    /// What happens to the event.
    pub settlement: Settlement,
    /// The lane in which it waits next, if it does.
    pub lane: Lane,
    /// The events that its handler published. The same step appends them, whatever the depth limit.
    pub publish: Vec<AppendRequest>,
    /// The plugin state that its handler read and changed. The same step writes it, if nobody else changed what it
    /// read.
    pub state: Option<StateChanges>,
}

/// The result of a settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// It took effect, now or at an earlier call.
    Done,
    /// This consumer no longer holds the delivery. Nothing changed.
    Lost,
    /// The plugin state that the handler read was changed meanwhile. Nothing changed, and this consumer still holds the
    /// delivery: handle it again.
    Conflict,
}

/// The result of [`WorkQueue::promote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromoteOutcome {
    /// How many events were moved to their lanes.
    pub moved: usize,
    /// More events are due already.
    pub more: bool,
    /// Milliseconds until the next event is due; `None` if nothing is scheduled.
    pub next_due_in_ms: Option<u64>,
}
