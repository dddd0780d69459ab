//! Claimed deliveries that wait for a slot, by lane, and the slots themselves.
//!
//! The dispatcher adds deliveries, and runners on guest threads take them. A task for each delivery would
//! instead cost four hand-overs between threads. Both use one lock and hold it for a few
//! instructions. The dispatcher is woken only when it can claim or start something new, not for each event.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::{ClaimRequest, Delivery, Lane};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::handler_pace::HandlerPace;
use super::lane_pauses::LanePauses;
use super::leases::DeliveryLease;
use super::slots::{SlotTable, WantingLane};

/// How many deliveries this host holds at most: waiting, running, or not settled yet.
pub(super) const MAX_LEASED: usize = 4_096;
/// How many of one lane it holds at most. A lane whose deliveries cannot be settled leaves room for the others.
const MAX_LEASED_OF_LANE: usize = MAX_LEASED / 2;
/// How many bytes of payload may wait for a slot, in all lanes. Sizes are estimated before a claim, so it may be exceeded.
const MAX_WAITING_BYTES: usize = 64 * 1_024 * 1_024;
/// How long a delivery may wait for a slot before it goes back to its lane. Claims aim at a far shorter wait.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(500);

/// The claimed deliveries of this host that wait for a slot.
pub(super) struct ReadyQueue {
    state: Mutex<ReadyQueueState>,
    /// Notified when the dispatcher can claim for more lanes or start more runners.
    wakeup: Notify,
    /// The number of guest threads, which limits the runners of a lane.
    threads: usize,
}

#[derive(Default)]
struct ReadyQueueState {
    slots: SlotTable,
    pace: HandlerPace,
    /// By lane, oldest first.
    waiting: HashMap<Lane, VecDeque<WaitingDelivery>>,
    /// Sorted, because [`SlotTable::plan_claim`] rotates the order from claim to claim.
    lanes: BTreeMap<Lane, ClaimableLane>,
    runners: HashMap<Lane, usize>,
    leased: HashMap<Lane, usize>,
    total_leased: usize,
    waiting_bytes: usize,
    pauses: LanePauses,
    /// Lanes that begin no attempt until the history has been trimmed.
    throttled_lanes: HashSet<Lane>,
}

/// A lane that this host claims from.
struct ClaimableLane {
    slots: usize,
    /// Whether the last claim asked for nothing in this lane.
    is_unasked: bool,
}

/// A delivery that waits for a slot.
pub(super) struct WaitingDelivery {
    pub(super) delivery: Delivery,
    pub(super) guard: DeliveryGuard,
    since: Instant,
}

/// Lives as long as this host has a delivery. Dropped when the delivery was settled or lost.
pub(super) struct DeliveryGuard {
    pub(super) lease: DeliveryLease,
    /// Dropping it ends the wait of the recovery loop.
    _ended: Option<oneshot::Sender<()>>,
    counted: Option<(Arc<ReadyQueue>, Lane)>,
}

/// A taken slot. Dropping it frees the slot.
pub(super) struct SlotGuard {
    queue: Arc<ReadyQueue>,
    lane: Lane,
    since: Instant,
}

/// Takes the deliveries of a lane. It counts as a runner of the lane until it is dropped.
pub(super) struct LaneRunner {
    queue: Arc<ReadyQueue>,
    lane: Lane,
}

impl ReadyQueue {
    /// An empty queue with `host_limit` free slots. `threads` is the number of guest threads.
    pub(super) fn new(host_limit: usize, threads: usize) -> Self {
        let state = ReadyQueueState { slots: SlotTable::new(host_limit), ..ReadyQueueState::default() };
        Self { state: Mutex::new(state), wakeup: Notify::new(), threads }
    }

    /// Sets the lanes to claim from, each with its number of slots.
    pub(super) fn set_lanes(&self, lanes: HashMap<Lane, usize>) {
        let claimable =
            |(lane, slots): (&Lane, &usize)| (lane.clone(), ClaimableLane { slots: *slots, is_unasked: false });
        let state = &mut *self.state.lock();
        state.lanes = lanes.iter().map(claimable).collect();
        state.slots.set_limits(lanes);
    }

    /// The next claim. `None` when no lane can use a delivery, or when this host holds [`MAX_LEASED`] deliveries.
    pub(super) fn next_claim(&self) -> Option<ClaimRequest> {
        let state = &mut *self.state.lock();
        let mut wanting = Vec::with_capacity(state.lanes.len());
        let (room_bytes, now) = (state.room_bytes(), Instant::now());
        for (lane, claimable) in &mut state.lanes {
            if state.pauses.is_paused(lane, now) || state.throttled_lanes.contains(lane) {
                claimable.is_unasked = false;
                continue;
            }
            claimable.is_unasked = true;
            if state.leased.get(lane).is_some_and(|leased| *leased >= MAX_LEASED_OF_LANE) {
                continue;
            }
            let ahead = state.pace.read_ahead(lane, claimable.slots, room_bytes);
            wanting.push(WantingLane::new(lane, claimable.slots, ahead));
        }
        let room = MAX_LEASED.saturating_sub(state.total_leased);
        let mut claim = if room > 0 { state.slots.plan_claim(&wanting)? } else { return None };
        for demand in &claim.lanes {
            if let Some(claimable) = state.lanes.get_mut(&demand.lane) {
                claimable.is_unasked = false;
            }
        }
        claim.max = claim.max.min(room);
        Some(claim)
    }

    /// Stops claims from this lane for a moment, because it had a delivery that only another host can handle.
    pub(super) fn pause_lane(&self, lane: &Lane) {
        self.state.lock().pauses.pause(lane, Instant::now());
    }

    /// Begins no further attempt of this lane until [`ReadyQueue::set_throttled_lanes`].
    pub(super) fn throttle_lane(&self, lane: &Lane) {
        self.state.lock().throttled_lanes.insert(lane.clone());
    }

    /// Sets the lanes that begin no attempt for now.
    pub(super) fn set_throttled_lanes(&self, lanes: HashSet<Lane>) {
        let before = std::mem::replace(&mut self.state.lock().throttled_lanes, lanes);
        if !before.is_empty() {
            self.wakeup.notify_one();
        }
    }

    /// Adds a claimed delivery, which waits for a slot of its lane.
    pub(super) fn push(self: &Arc<Self>, delivery: Delivery, lease: DeliveryLease) {
        let lane = delivery.receipt.lane.clone();
        let guard = DeliveryGuard { lease, _ended: None, counted: Some((self.clone(), lane.clone())) };
        let state = &mut *self.state.lock();
        state.total_leased += 1;
        *state.leased.entry(lane.clone()).or_default() += 1;
        state.slots.add_waiting(&lane);
        let size_bytes = size_bytes(&delivery);
        state.waiting_bytes += size_bytes;
        state.pace.note_size(&lane, size_bytes);
        let waiting = WaitingDelivery { delivery, guard, since: Instant::now() };
        state.waiting.entry(lane).or_default().push_back(waiting);
    }

    /// Notes the size of a delivery that was not claimed: the next claim of its lane may bring events as large.
    pub(super) fn note_size(&self, delivery: &Delivery) {
        self.state.lock().pace.note_size(&delivery.receipt.lane, size_bytes(delivery));
    }

    /// The runners that have work and do not exist yet. They count from now on.
    pub(super) fn missing_runners(self: &Arc<Self>) -> Vec<LaneRunner> {
        let state = &mut *self.state.lock();
        let mut missing = Vec::new();
        for (lane, queue) in &state.waiting {
            let limit = state.slot_limit(lane);
            let useful = state.slots.free(lane, limit).min(queue.len()).min(self.threads);
            let existing = state.runners.get(lane).copied().unwrap_or(0);
            missing.extend((existing..useful).map(|_| LaneRunner { queue: self.clone(), lane: lane.clone() }));
        }
        for runner in &missing {
            *state.runners.entry(runner.lane.clone()).or_default() += 1;
        }
        missing
    }

    /// Takes out the deliveries that at `now` have waited for [`MAX_WAIT`], and notes that the handlers of their lanes are
    /// slow. Later deliveries stay, because a slot may become free in time.
    pub(super) fn take_late(&self, now: Instant) -> Vec<WaitingDelivery> {
        let is_late = |waiting: &WaitingDelivery| now.saturating_duration_since(waiting.since) >= MAX_WAIT;
        let state = &mut *self.state.lock();
        let late = state.take_oldest_while(is_late);
        let mut noted = None;
        for lane in late.iter().map(|waiting| &waiting.delivery.receipt.lane) {
            if noted != Some(lane) {
                state.pace.note_duration(lane, MAX_WAIT);
                noted = Some(lane);
            }
        }
        late
    }

    /// Takes out all deliveries.
    pub(super) fn take_all(&self) -> Vec<WaitingDelivery> {
        self.state.lock().take_oldest_while(|_| true)
    }

    /// Whether no delivery waits.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().waiting.is_empty()
    }

    /// Waits until the dispatcher can claim or start something new. Cancel safe.
    pub(super) async fn wakeup(&self) {
        self.wakeup.notified().await;
    }
}

impl ReadyQueueState {
    fn slot_limit(&self, lane: &Lane) -> usize {
        if self.throttled_lanes.contains(lane) {
            return 0;
        }
        self.lanes.get(lane).map_or(1, |claimable| claimable.slots)
    }

    fn room_bytes(&self) -> usize {
        MAX_WAITING_BYTES.saturating_sub(self.waiting_bytes)
    }

    /// Takes deliveries out of each lane, oldest first, up to the first one that does not match. Grouped by lane.
    fn take_oldest_while(&mut self, matches: impl Fn(&WaitingDelivery) -> bool) -> Vec<WaitingDelivery> {
        let mut taken = Vec::new();
        self.waiting.retain(|_, queue| {
            let matching = queue.iter().position(|waiting| !matches(waiting)).unwrap_or(queue.len());
            taken.extend(queue.drain(..matching));
            !queue.is_empty()
        });
        for waiting in &taken {
            self.waiting_bytes -= size_bytes(&waiting.delivery);
            self.slots.remove_waiting(&waiting.delivery.receipt.lane);
        }
        taken
    }

    /// Whether the dispatcher must look at a lane that changed.
    fn needs_dispatch(&mut self, lane: &Lane) -> bool {
        let limit = self.slot_limit(lane);
        let has_waiting = self.slots.waiting(lane) > 0;
        if has_waiting && !self.runners.contains_key(lane) && self.slots.free(lane, limit) > 0 {
            return true;
        }
        let room_bytes = self.room_bytes();
        let Some(claimable) = self.lanes.get_mut(lane).filter(|claimable| claimable.is_unasked) else { return false };
        let wanting = WantingLane::new(lane, limit, self.pace.read_ahead(lane, limit, room_bytes));
        if !self.slots.can_use(&wanting) {
            return false;
        }
        claimable.is_unasked = false;
        true
    }
}

/// The payload size of a delivery.
fn size_bytes(delivery: &Delivery) -> usize {
    delivery.record.event.data.as_ref().map_or(0, |data| data.bytes.len())
}

impl LaneRunner {
    /// Takes the next delivery of the lane and a slot for it. `None` when either is missing.
    pub(super) fn next_delivery(&self) -> Option<(WaitingDelivery, SlotGuard)> {
        let (mut next, mut lost) = (None, Vec::new());
        let needs_dispatch = {
            let state = &mut *self.queue.state.lock();
            let limit = state.slot_limit(&self.lane);
            while next.is_none() && state.slots.free(&self.lane, limit) > 0 {
                let Some(queue) = state.waiting.get_mut(&self.lane) else { break };
                let waiting = queue.pop_front();
                if queue.is_empty() {
                    state.waiting.remove(&self.lane);
                }
                let Some(waiting) = waiting else { break };
                state.waiting_bytes -= size_bytes(&waiting.delivery);
                state.slots.remove_waiting(&self.lane);
                // Another consumer holds it by now. Its guard takes the lock, so it is dropped after this block.
                if waiting.guard.lease.lost().is_cancelled() {
                    lost.push(waiting);
                } else {
                    state.slots.take(&self.lane);
                    next = Some(waiting);
                }
            }
            state.needs_dispatch(&self.lane)
        };
        if needs_dispatch {
            self.queue.wakeup.notify_one();
        }
        let slot = || SlotGuard { queue: self.queue.clone(), lane: self.lane.clone(), since: Instant::now() };
        next.map(|waiting| (waiting, slot()))
    }
}

impl Drop for LaneRunner {
    fn drop(&mut self) {
        let needs_dispatch = {
            let state = &mut *self.queue.state.lock();
            if let Some(runners) = state.runners.get_mut(&self.lane) {
                *runners -= 1;
                if *runners == 0 {
                    state.runners.remove(&self.lane);
                }
            }
            state.needs_dispatch(&self.lane)
        };
        if needs_dispatch {
            self.queue.wakeup.notify_one();
        }
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let needs_dispatch = {
            let state = &mut *self.queue.state.lock();
            let was_full = state.slots.is_full();
            state.slots.release(&self.lane);
            state.pace.note_duration(&self.lane, self.since.elapsed());
            // While the host was full, any lane may have waited for a slot.
            state.needs_dispatch(&self.lane) || was_full
        };
        if needs_dispatch {
            self.queue.wakeup.notify_one();
        }
    }
}

impl DeliveryGuard {
    /// A guard for a recovered delivery, which takes no slot. The receiver ends when the guard is dropped.
    pub(super) fn for_suspect(lease: DeliveryLease) -> (Self, oneshot::Receiver<()>) {
        let (ended, has_ended) = oneshot::channel();
        (Self { lease, _ended: Some(ended), counted: None }, has_ended)
    }
}

impl Drop for DeliveryGuard {
    fn drop(&mut self) {
        let Some((queue, lane)) = &self.counted else { return };
        let was_full = {
            let state = &mut *queue.state.lock();
            state.total_leased -= 1;
            let left = state.leased.get_mut(lane).map_or(0, |leased| {
                *leased -= 1;
                *leased
            });
            if left == 0 {
                state.leased.remove(lane);
            }
            state.total_leased + 1 >= MAX_LEASED || left + 1 >= MAX_LEASED_OF_LANE
        };
        if was_full {
            queue.wakeup.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
