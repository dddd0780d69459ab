//! Tests of the ready queue: what waits, what begins and what this host has, lane by lane.

use std::pin::pin;

use super::*;
use crate::broker::Receipt;
use crate::event::{Event, EventData, EventId, EventRecord, Timestamp};
use crate::worker::leases::LeasedDeliveries;
use futures_util::FutureExt;

fn lane(name: &str) -> Lane {
    name.parse().unwrap()
}

fn delivery(name: &str) -> Delivery {
    let event = Event::new("a".parse().unwrap(), "/tests", Timestamp::from_unix_ms(0));
    let receipt = Receipt { event_id: event.id, lane: lane(name), entry: "1-1".into(), deliveries: 1 };
    Delivery { record: EventRecord::new(event), deliveries: 1, receipt }
}

fn push(queue: &Arc<ReadyQueue>, name: &str) {
    let (leased, delivery) = (LeasedDeliveries::default(), delivery(name));
    let lease = leased.keep(&delivery.receipt, Instant::now());
    queue.push(delivery, lease);
}

fn queue(slots: usize) -> Arc<ReadyQueue> {
    let queue = Arc::new(ReadyQueue::new(64, 2));
    queue.set_lanes(HashMap::from([(lane("a"), slots), (lane("b"), slots)]));
    queue
}

/// Whether the dispatcher was woken. Consumes the wake-up.
fn takes_wakeup(queue: &ReadyQueue) -> bool {
    pin!(queue.wakeup()).now_or_never().is_some()
}

#[test]
fn a_lane_has_no_more_runners_than_slots_deliveries_or_threads() {
    let queue = queue(3);
    assert!(queue.missing_runners().is_empty());
    push(&queue, "a");
    let one = queue.missing_runners();
    assert_eq!(one.len(), 1);
    for _ in 0..4 {
        push(&queue, "a");
    }
    let another = queue.missing_runners();
    assert_eq!(another.len(), 1, "one exists, and two threads can run two");
    drop((one, another));
    assert_eq!(queue.missing_runners().len(), 2);
}

#[test]
fn a_runner_takes_the_oldest_and_stops_without_a_free_slot() {
    let queue = queue(2);
    for _ in 0..3 {
        push(&queue, "a");
    }
    let runners = queue.missing_runners();
    let first = runners[0].next_delivery().unwrap();
    let second = runners[0].next_delivery().unwrap();
    assert!(first.0.delivery.receipt.event_id < second.0.delivery.receipt.event_id);
    assert!(runners[0].next_delivery().is_none(), "both slots are taken");
    drop(first.1);
    assert!(runners[0].next_delivery().is_some());
}

#[test]
fn a_lane_whose_deliveries_cannot_be_settled_leaves_room_for_the_others() {
    let queue = queue(2);
    let asked =
        || queue.next_claim().map_or_else(Vec::new, |claim| claim.lanes.into_iter().map(|it| it.lane).collect());
    for _ in 0..MAX_LEASED_OF_LANE {
        push(&queue, "a");
    }
    let mut unsettled = queue.take_all();
    assert_eq!(asked(), [lane("b")]);
    assert!(!takes_wakeup(&queue));
    unsettled.pop();
    assert!(takes_wakeup(&queue), "there is room for one more");
    assert_eq!(asked().len(), 2);
    drop(unsettled);
    let state = queue.state.lock();
    assert_eq!((state.total_leased, state.leased.len()), (0, 0));
}

#[test]
fn a_delivery_lost_while_it_waited_does_not_begin() {
    let queue = queue(2);
    let (leased, lost) = (LeasedDeliveries::default(), delivery("a"));
    let lease = leased.keep(&lost.receipt, Instant::now());
    lease.lost().cancel();
    queue.push(lost, lease);
    push(&queue, "a");
    let runners = queue.missing_runners();
    assert!(runners[0].next_delivery().is_some());
    assert!(runners[0].next_delivery().is_none());
    assert!(queue.is_empty());
}

#[test]
fn the_dispatcher_is_woken_once_when_a_lane_can_use_more() {
    let queue = queue(2);
    assert_eq!(queue.next_claim().unwrap().lanes.len(), 2);
    push(&queue, "a");
    push(&queue, "a");
    assert_eq!(queue.next_claim().unwrap().lanes.len(), 1, "the slots of a are reserved");
    assert!(!takes_wakeup(&queue));
    let runners = queue.missing_runners();
    let (waiting, slot) = runners[0].next_delivery().unwrap();
    assert!(!takes_wakeup(&queue), "it took its slot with it");
    drop((waiting, slot));
    assert!(takes_wakeup(&queue), "a slot is free");
    drop(runners[1].next_delivery().unwrap());
    assert!(!takes_wakeup(&queue), "it was woken once");
}

#[test]
fn a_slot_that_becomes_free_without_a_runner_wakes_the_dispatcher() {
    let queue = queue(1);
    push(&queue, "a");
    push(&queue, "a");
    let runners = queue.missing_runners();
    let taken = runners[0].next_delivery().unwrap();
    drop(runners);
    assert!(!takes_wakeup(&queue), "no slot is free");
    assert!(queue.missing_runners().is_empty());
    drop(taken);
    assert!(takes_wakeup(&queue));
    assert_eq!(queue.missing_runners().len(), 1);
}

#[test]
fn a_recovered_delivery_counts_for_the_event_size_of_its_lane() {
    let queue = queue(2);
    queue.state.lock().pace.note_duration(&lane("a"), Duration::from_micros(50));
    let asked = || queue.next_claim().unwrap().lanes.iter().find(|want| want.lane == lane("a")).unwrap().free;
    assert!(asked() > 500);
    let mut large = delivery("a");
    Arc::make_mut(&mut large.record.event).data = Some(EventData::text("1".repeat(256 * 1_024)));
    queue.note_size(&large);
    assert_eq!(asked(), 2 + 64);
}

#[test]
fn only_late_deliveries_go_back_and_the_rest_of_their_lane_stays() {
    let queue = queue(2);
    for _ in 0..2 {
        push(&queue, "a");
    }
    push(&queue, "b");
    let first_pushed = Instant::now();
    while first_pushed == Instant::now() {}
    let late: Vec<EventId> =
        queue.state.lock().waiting[&lane("a")].iter().map(|it| it.delivery.receipt.event_id).collect();
    push(&queue, "a");
    let mut taken = queue.take_late(first_pushed + MAX_WAIT);
    taken.retain(|waiting| waiting.delivery.receipt.lane == lane("a"));
    assert_eq!(taken.iter().map(|it| it.delivery.receipt.event_id).collect::<Vec<_>>(), late);
    let state = queue.state.lock();
    assert_eq!((state.waiting.len(), state.waiting[&lane("a")].len(), state.slots.waiting(&lane("a"))), (1, 1, 1));
}

#[test]
fn a_paused_lane_is_left_to_other_hosts_for_a_moment() {
    let queue = queue(2);
    queue.pause_lane(&lane("a"));
    let asked: Vec<Lane> = queue.next_claim().unwrap().lanes.into_iter().map(|want| want.lane).collect();
    assert_eq!(asked, [lane("b")]);
    assert!(!takes_wakeup(&queue));
}

#[test]
fn deliveries_that_are_taken_out_no_longer_wait() {
    let queue = queue(2);
    let before = Instant::now();
    push(&queue, "a");
    push(&queue, "b");
    assert!(queue.take_late(before).is_empty());
    assert_eq!(queue.take_all().len(), 2);
    assert!(queue.is_empty());
    assert_eq!(queue.next_claim().unwrap().lanes.len(), 2);
}

#[test]
fn a_throttled_lane_begins_nothing_until_it_is_let_go() {
    let queue = queue(3);
    push(&queue, "a");
    push(&queue, "b");
    let runners = queue.missing_runners();
    queue.throttle_lane(&lane("a"));
    let begun: Vec<_> = runners.iter().filter_map(LaneRunner::next_delivery).collect();
    assert_eq!(begun.iter().map(|(waiting, _)| waiting.delivery.receipt.lane.as_str()).collect::<Vec<_>>(), ["b"]);
    drop(runners);
    takes_wakeup(&queue);
    assert!(queue.missing_runners().is_empty());
    let lanes = queue.next_claim().unwrap().lanes;
    assert_eq!(lanes.iter().map(|demand| demand.lane.as_str()).collect::<Vec<_>>(), ["b"]);
    queue.set_throttled_lanes(HashSet::new());
    assert!(takes_wakeup(&queue), "the dispatcher learns of it");
    assert_eq!(queue.missing_runners().len(), 1);
}
