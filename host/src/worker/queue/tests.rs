//! What waits, begins and is held, lane by lane.

use std::pin::pin;

use futures_util::FutureExt;
use tokio_util::task::TaskTracker;

use super::*;
use crate::broker::Receipt;
use crate::event::{Event, EventData, EventId, EventRecord, Timestamp};
use crate::worker::leases::HeldDeliveries;

fn lane(name: &str) -> Lane {
    name.parse().unwrap()
}

fn delivery(name: &str) -> Delivery {
    let event = Event::new("a".parse().unwrap(), "/tests", Timestamp::from_unix_ms(0));
    let receipt = Receipt { event_id: event.id, lane: lane(name), entry: "1-1".into(), deliveries: 1 };
    Delivery { record: EventRecord::new(event), deliveries: 1, receipt }
}

fn push(queue: &Arc<ReadyQueue>, name: &str) {
    let (held, delivery) = (HeldDeliveries::default(), delivery(name));
    let hold = held.hold(&delivery.receipt, Instant::now());
    queue.push(delivery, hold, TaskTracker::new().token());
}

fn queue(slots: usize) -> Arc<ReadyQueue> {
    let queue = Arc::new(ReadyQueue::new(64, 2));
    queue.set_lanes(HashMap::from([(lane("a"), slots), (lane("b"), slots)]));
    queue
}

/// Whether the dispatcher is woken; a second look finds nothing.
fn is_stirred(queue: &ReadyQueue) -> bool {
    pin!(queue.stirred()).now_or_never().is_some()
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
    assert_eq!(another.len(), 1, "one is there, and two threads can run two");
    drop((one, another));
    assert_eq!(queue.missing_runners().len(), 2);
}

#[test]
fn a_runner_takes_the_oldest_and_stops_where_slots_end() {
    let queue = queue(2);
    for _ in 0..3 {
        push(&queue, "a");
    }
    let runners = queue.missing_runners();
    let first = runners[0].next().unwrap();
    let second = runners[0].next().unwrap();
    assert!(first.0.delivery.receipt.event_id < second.0.delivery.receipt.event_id);
    assert!(runners[0].next().is_none(), "both slots are taken");
    drop(first.1);
    assert!(runners[0].next().is_some());
}

#[test]
fn a_lane_of_which_nothing_can_be_settled_leaves_the_others_room() {
    let queue = queue(2);
    let asked = || queue.claim().map_or_else(Vec::new, |claim| claim.lanes.into_iter().map(|it| it.lane).collect());
    for _ in 0..MAX_HELD_OF_LANE {
        push(&queue, "a");
    }
    let mut unsettled = queue.take_all();
    assert_eq!(asked(), [lane("b")]);
    assert!(!is_stirred(&queue));
    unsettled.pop();
    assert!(is_stirred(&queue), "there is room for one more");
    assert_eq!(asked().len(), 2);
    drop(unsettled);
    let book = queue.book();
    assert_eq!((book.total_held, book.held.len()), (0, 0));
}

#[test]
fn what_was_lost_while_it_waited_is_not_begun() {
    let queue = queue(2);
    let (held, lost) = (HeldDeliveries::default(), delivery("a"));
    let hold = held.hold(&lost.receipt, Instant::now());
    hold.lost().cancel();
    queue.push(lost, hold, TaskTracker::new().token());
    push(&queue, "a");
    let runners = queue.missing_runners();
    assert!(runners[0].next().is_some());
    assert!(runners[0].next().is_none());
    assert!(queue.is_empty());
}

#[test]
fn the_dispatcher_is_woken_once_when_a_lane_can_use_more_and_not_before() {
    let queue = queue(2);
    assert_eq!(queue.claim().unwrap().lanes.len(), 2);
    push(&queue, "a");
    push(&queue, "a");
    assert_eq!(queue.claim().unwrap().lanes.len(), 1, "the slots of a are spoken for");
    assert!(!is_stirred(&queue));
    let runners = queue.missing_runners();
    let (waiting, slot) = runners[0].next().unwrap();
    assert!(!is_stirred(&queue), "it took its slot with it");
    drop((waiting, slot));
    assert!(is_stirred(&queue), "a slot is free");
    drop(runners[1].next().unwrap());
    assert!(!is_stirred(&queue), "that was told");
}

#[test]
fn a_slot_that_comes_free_without_a_runner_wakes_the_dispatcher() {
    let queue = queue(1);
    push(&queue, "a");
    push(&queue, "a");
    let runners = queue.missing_runners();
    let taken = runners[0].next().unwrap();
    drop(runners);
    assert!(!is_stirred(&queue), "no slot is free");
    assert!(queue.missing_runners().is_empty());
    drop(taken);
    assert!(is_stirred(&queue));
    assert_eq!(queue.missing_runners().len(), 1);
}

#[test]
fn what_was_taken_over_tells_how_large_the_events_of_its_lane_are() {
    let queue = queue(2);
    queue.book().paces.took(&lane("a"), Duration::from_micros(50));
    let asked = || queue.claim().unwrap().lanes.iter().find(|want| want.lane == lane("a")).unwrap().free;
    assert!(asked() > 500);
    let mut large = delivery("a");
    Arc::make_mut(&mut large.record.event).data = Some(EventData::text("1".repeat(256 * 1_024)));
    queue.came(&large);
    assert_eq!(asked(), 2 + 64);
}

#[test]
fn only_what_is_late_goes_back_and_the_rest_of_its_lane_stays() {
    let queue = queue(2);
    for _ in 0..2 {
        push(&queue, "a");
    }
    push(&queue, "b");
    let first_came = Instant::now();
    while first_came == Instant::now() {}
    let late: Vec<EventId> = queue.book().waiting[&lane("a")].iter().map(|it| it.delivery.receipt.event_id).collect();
    push(&queue, "a");
    let mut taken = queue.take_late(first_came + MAX_WAIT);
    taken.retain(|waiting| waiting.delivery.receipt.lane == lane("a"));
    assert_eq!(taken.iter().map(|it| it.delivery.receipt.event_id).collect::<Vec<_>>(), late);
    let book = queue.book();
    assert_eq!((book.waiting.len(), book.waiting[&lane("a")].len(), book.slots.waiting(&lane("a"))), (1, 1, 1));
}

#[test]
fn a_lane_with_strays_is_left_to_others_for_a_moment() {
    let queue = queue(2);
    queue.found_stray(&lane("a"));
    let asked: Vec<Lane> = queue.claim().unwrap().lanes.into_iter().map(|want| want.lane).collect();
    assert_eq!(asked, [lane("b")]);
    assert!(!is_stirred(&queue));
}

#[test]
fn what_is_taken_out_waits_no_more() {
    let queue = queue(2);
    let before = Instant::now();
    push(&queue, "a");
    push(&queue, "b");
    assert!(queue.take_late(before).is_empty());
    assert_eq!(queue.take_all().len(), 2);
    assert!(queue.is_empty());
    assert_eq!(queue.claim().unwrap().lanes.len(), 2);
}
