//! What this host has claimed and not begun, by lane, with the slots to begin it in.
//!
//! The dispatcher puts deliveries in, runners on the threads of guests take them out: both under one lock that is held
//! for a few instructions. The dispatcher is woken only when it can do something that it has not done already, not once
//! for each event.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::broker::{ClaimRequest, Delivery, Lane};

use super::ahead::HandlerPace;
use super::leases::DeliveryHold;
use super::slots::{SlotTable, WantingLane};
use super::strays::StrayLanes;

/// The most deliveries that this host holds: those that wait, are handled, or are not settled yet.
pub(super) const MAX_HELD: usize = 4_096;
/// The most of one lane: what cannot be settled, since something stands in the way of its own, leaves the others room.
const MAX_HELD_OF_LANE: usize = MAX_HELD / 2;
/// The most bytes of payloads that wait for a slot, of all lanes together and as far as can be told before they are claimed.
const MAX_WAITING_BYTES: usize = 64 * 1_024 * 1_024;
/// How long a delivery waits for a slot before it goes back. Far longer than was expected of it.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(500);

/// The deliveries that wait in this host.
pub(super) struct ReadyQueue {
    book: Mutex<ReadyQueueState>,
    /// Lanes can be claimed for, or runners started, that could not before.
    stirred: Notify,
    /// The most runners of one lane; more would only wait for each other.
    threads: usize,
}

struct ReadyQueueState {
    slots: SlotTable,
    paces: HandlerPace,
    /// By lane, oldest first.
    waiting: HashMap<Lane, VecDeque<WaitingDelivery>>,
    /// In an order that stays, since who comes first changes from claim to claim.
    lanes: BTreeMap<Lane, ClaimableLane>,
    runners: HashMap<Lane, usize>,
    held: HashMap<Lane, usize>,
    total_held: usize,
    waiting_bytes: usize,
    strays: StrayLanes,
}

/// A lane to claim for.
struct ClaimableLane {
    slots: usize,
    /// Nothing was asked for it the last time.
    is_unasked: bool,
}

/// A delivery that is held and has not begun.
pub(super) struct WaitingDelivery {
    pub(super) delivery: Delivery,
    pub(super) custody: DeliveryGuard,
    since: Instant,
}

/// A delivery is in this host's hands until this is dropped, which is when it was settled or lost.
pub(super) struct DeliveryGuard {
    pub(super) hold: DeliveryHold,
    /// Nobody waits for this, but dropping it tells whoever waits for the other end.
    _over: Option<oneshot::Sender<()>>,
    counted: Option<(Arc<ReadyQueue>, Lane)>,
    _task: TaskTrackerToken,
}

/// A taken slot; free again when this is dropped.
pub(super) struct SlotGuard {
    queue: Arc<ReadyQueue>,
    lane: Lane,
    since: Instant,
}

/// One of those who take deliveries of a lane; counted until it is dropped.
pub(super) struct LaneRunner {
    queue: Arc<ReadyQueue>,
    lane: Lane,
}

impl ReadyQueue {
    /// Nothing waits, and all slots are free. `threads` is how many run guests.
    pub(super) fn new(host_limit: usize, threads: usize) -> Self {
        let book = ReadyQueueState {
            slots: SlotTable::new(host_limit),
            paces: HandlerPace::default(),
            waiting: HashMap::new(),
            lanes: BTreeMap::new(),
            runners: HashMap::new(),
            held: HashMap::new(),
            total_held: 0,
            waiting_bytes: 0,
            strays: StrayLanes::default(),
        };
        Self { book: Mutex::new(book), stirred: Notify::new(), threads }
    }

    /// The lanes to claim for from now on, each with its slots.
    pub(super) fn set_lanes(&self, lanes: HashMap<Lane, usize>) {
        let served =
            |(lane, slots): (&Lane, &usize)| (lane.clone(), ClaimableLane { slots: *slots, is_unasked: false });
        let book = &mut *self.book();
        book.lanes = lanes.iter().map(served).collect();
        book.slots.set_limits(lanes);
    }

    /// What to ask the broker for; `None` when nothing can be used, or while as much is held as may be.
    pub(super) fn claim(&self) -> Option<ClaimRequest> {
        let book = &mut *self.book();
        let mut wants = Vec::with_capacity(book.lanes.len());
        let (room_bytes, now) = (book.room_bytes(), Instant::now());
        for (lane, served) in &mut book.lanes {
            if book.strays.is_paused(lane, now) {
                served.is_unasked = false;
                continue;
            }
            served.is_unasked = true;
            if book.held.get(lane).is_some_and(|held| *held >= MAX_HELD_OF_LANE) {
                continue;
            }
            wants.push(WantingLane::new(lane, served.slots, book.paces.ahead(lane, served.slots, room_bytes)));
        }
        let room = MAX_HELD.saturating_sub(book.total_held);
        let mut claim = if room > 0 { book.slots.claim(&wants)? } else { return None };
        for want in &claim.lanes {
            if let Some(served) = book.lanes.get_mut(&want.lane) {
                served.is_unasked = false;
            }
        }
        claim.max = claim.max.min(room);
        Some(claim)
    }

    /// A delivery of this lane was for others, who claim from it as well: the lane is left to them for a moment.
    pub(super) fn found_stray(&self, lane: &Lane) {
        self.book().strays.found(lane, Instant::now());
    }

    /// A delivery waits for a slot of its lane. `task` keeps the worker from ending before it is settled.
    pub(super) fn push(self: &Arc<Self>, delivery: Delivery, hold: DeliveryHold, task: TaskTrackerToken) {
        let lane = delivery.receipt.lane.clone();
        let custody = DeliveryGuard { hold, _over: None, counted: Some((self.clone(), lane.clone())), _task: task };
        let book = &mut *self.book();
        book.total_held += 1;
        *book.held.entry(lane.clone()).or_default() += 1;
        book.slots.wait(&lane);
        let size_bytes = size_bytes(&delivery);
        book.waiting_bytes += size_bytes;
        book.paces.came(&lane, size_bytes);
        let waiting = WaitingDelivery { delivery, custody, since: Instant::now() };
        book.waiting.entry(lane).or_default().push_back(waiting);
    }

    /// A delivery came another way: what is claimed next of its lane may be as large.
    pub(super) fn came(&self, delivery: &Delivery) {
        self.book().paces.came(&delivery.receipt.lane, size_bytes(delivery));
    }

    /// The runners that could work now and are not there yet. They are counted from here on.
    pub(super) fn missing_runners(self: &Arc<Self>) -> Vec<LaneRunner> {
        let book = &mut *self.book();
        let mut missing = Vec::new();
        for (lane, queue) in &book.waiting {
            let limit = book.limit(lane);
            let useful = book.slots.free(lane, limit).min(queue.len()).min(self.threads);
            let there = book.runners.get(lane).copied().unwrap_or(0);
            missing.extend((there..useful).map(|_| LaneRunner { queue: self.clone(), lane: lane.clone() }));
        }
        for runner in &missing {
            *book.runners.entry(runner.lane.clone()).or_default() += 1;
        }
        missing
    }

    /// Takes out what has by `now` waited for too long, and notes of its lanes that their handlers are slow. What came
    /// later stays: it has its time, and slots may come free within it.
    pub(super) fn take_late(&self, now: Instant) -> Vec<WaitingDelivery> {
        let is_late = |waiting: &WaitingDelivery| now.saturating_duration_since(waiting.since) >= MAX_WAIT;
        let book = &mut *self.book();
        let late = book.take_out(is_late);
        let mut noted = None;
        for lane in late.iter().map(|waiting| &waiting.delivery.receipt.lane) {
            if noted != Some(lane) {
                book.paces.took(lane, MAX_WAIT);
                noted = Some(lane);
            }
        }
        late
    }

    /// Takes out everything.
    pub(super) fn take_all(&self) -> Vec<WaitingDelivery> {
        self.book().take_out(|_| true)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.book().waiting.is_empty()
    }

    /// Ends when something can be done that could not be done before. May be dropped.
    pub(super) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    fn book(&self) -> MutexGuard<'_, ReadyQueueState> {
        self.book.lock()
    }
}

impl ReadyQueueState {
    fn limit(&self, lane: &Lane) -> usize {
        self.lanes.get(lane).map_or(1, |served| served.slots)
    }

    fn room_bytes(&self) -> usize {
        MAX_WAITING_BYTES.saturating_sub(self.waiting_bytes)
    }

    /// Takes out the oldest of each lane, for as long as they are such; lane by lane.
    fn take_out(&mut self, is_such: impl Fn(&WaitingDelivery) -> bool) -> Vec<WaitingDelivery> {
        let mut out = Vec::new();
        self.waiting.retain(|_, queue| {
            let stays = queue.iter().position(|waiting| !is_such(waiting)).unwrap_or(queue.len());
            out.extend(queue.drain(..stays));
            !queue.is_empty()
        });
        for waiting in &out {
            self.waiting_bytes -= size_bytes(&waiting.delivery);
            self.slots.wait_no_more(&waiting.delivery.receipt.lane);
        }
        out
    }

    /// Whether the dispatcher should look at a lane of which something has changed.
    fn stirs(&mut self, lane: &Lane) -> bool {
        let limit = self.limit(lane);
        let waits = self.slots.waiting(lane) > 0;
        if waits && !self.runners.contains_key(lane) && self.slots.free(lane, limit) > 0 {
            return true;
        }
        let room_bytes = self.room_bytes();
        let Some(served) = self.lanes.get_mut(lane).filter(|served| served.is_unasked) else { return false };
        let want = WantingLane::new(lane, limit, self.paces.ahead(lane, limit, room_bytes));
        if !self.slots.can_use(&want) {
            return false;
        }
        served.is_unasked = false;
        true
    }
}

/// The bytes of the payload of a delivery.
fn size_bytes(delivery: &Delivery) -> usize {
    delivery.record.event.data.as_ref().map_or(0, |data| data.bytes.len())
}

impl LaneRunner {
    /// The next delivery of the lane and a slot for it, as long as there are both.
    pub(super) fn next(&self) -> Option<(WaitingDelivery, SlotGuard)> {
        let (mut next, mut lost) = (None, Vec::new());
        let stirs = {
            let book = &mut *self.queue.book();
            let limit = book.limit(&self.lane);
            while next.is_none() && book.slots.free(&self.lane, limit) > 0 {
                let Some(queue) = book.waiting.get_mut(&self.lane) else { break };
                let waiting = queue.pop_front();
                if queue.is_empty() {
                    book.waiting.remove(&self.lane);
                }
                let Some(waiting) = waiting else { break };
                book.waiting_bytes -= size_bytes(&waiting.delivery);
                book.slots.wait_no_more(&self.lane);
                // Lost while it waited: somebody else has it.
                if waiting.custody.hold.lost().is_cancelled() {
                    lost.push(waiting);
                } else {
                    book.slots.take(&self.lane);
                    next = Some(waiting);
                }
            }
            book.stirs(&self.lane)
        };
        if stirs {
            self.queue.stirred.notify_one();
        }
        let slot = || SlotGuard { queue: self.queue.clone(), lane: self.lane.clone(), since: Instant::now() };
        next.map(|waiting| (waiting, slot()))
    }
}

impl Drop for LaneRunner {
    fn drop(&mut self) {
        let stirs = {
            let book = &mut *self.queue.book();
            if let Some(runners) = book.runners.get_mut(&self.lane) {
                *runners -= 1;
                if *runners == 0 {
                    book.runners.remove(&self.lane);
                }
            }
            book.stirs(&self.lane)
        };
        if stirs {
            self.queue.stirred.notify_one();
        }
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let stirs = {
            let book = &mut *self.queue.book();
            let was_full = book.slots.is_full();
            book.slots.release(&self.lane);
            book.paces.took(&self.lane, self.since.elapsed());
            // What the host's limit kept from beginning may be of any lane.
            book.stirs(&self.lane) || was_full
        };
        if stirs {
            self.queue.stirred.notify_one();
        }
    }
}

impl DeliveryGuard {
    /// Of a delivery that is handled alone; the receiver ends when it is over.
    pub(super) fn alone(hold: DeliveryHold, task: TaskTrackerToken) -> (Self, oneshot::Receiver<()>) {
        let (over, is_over) = oneshot::channel();
        (Self { hold, _over: Some(over), counted: None, _task: task }, is_over)
    }
}

impl Drop for DeliveryGuard {
    fn drop(&mut self) {
        let Some((queue, lane)) = &self.counted else { return };
        let was_full = {
            let book = &mut *queue.book();
            book.total_held -= 1;
            let left = book.held.get_mut(lane).map_or(0, |held| {
                *held -= 1;
                *held
            });
            if left == 0 {
                book.held.remove(lane);
            }
            book.total_held + 1 >= MAX_HELD || left + 1 >= MAX_HELD_OF_LANE
        };
        if was_full {
            queue.stirred.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
