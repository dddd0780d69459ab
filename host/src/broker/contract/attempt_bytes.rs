//! The attempts of events that wait count towards their lane's limit of bytes (G8, G12), and leave it with their events.

use super::*;
use crate::broker::{ExportedEvent, FailedEventChange, RestoreOutcome, SnapshotItem};

/// What each attempt leaves.
const OUTPUT_BYTES: u64 = 20_000;

/// The waiting and the failed bytes of the lane `a`.
async fn bytes(broker: &dyn Broker) -> (u64, u64) {
    let depth = broker.stats().await.expect("totals").depth;
    let of = |by_lane: &BTreeMap<String, u64>| by_lane.get("a").copied().unwrap_or(0);
    (of(&depth.waiting_bytes_by_lane), of(&depth.failed_bytes_by_lane))
}

/// Appends an event that waits for ever. So the total of its lane is never that of an empty one.
async fn append_the_last(broker: &dyn Broker) -> u64 {
    let later = AppendRequest { start: DeliveryStart::InMs(600_000), ..append_to("a", event("order.paid")) };
    broker.append(vec![later]).await.expect("accepted");
    bytes(broker).await.0
}

/// The settle of an attempt with output.
fn with_output(delivery: &Delivery, settlement: Settlement) -> SettleRequest {
    let mut settle = settle(delivery, settlement, Vec::new());
    if let Some(attempt) = settle.record.attempts.last_mut() {
        attempt.plugin = Some("a".into());
        attempt.stderr = Some("x".repeat(OUTPUT_BYTES as usize));
    }
    settle
}

async fn settle_with_output(broker: &dyn Broker, delivery: &Delivery, settlement: Settlement) {
    for outcome in ["it is settled", "it is repeated"] {
        let settled = broker.settle(vec![with_output(delivery, settlement.clone())]).await.expect("answered");
        assert_eq!(settled, [SettleOutcome::Done], "{outcome}");
    }
}

/// That so many bytes are the output of `attempts` and little else.
#[track_caller]
fn assert_output(bytes: u64, attempts: u64) {
    let output = OUTPUT_BYTES * attempts;
    assert!((output..output + 1_000 * (attempts + 1)).contains(&bytes), "{bytes} for {attempts} attempts");
}

async fn come_back(broker: &dyn Broker, n: usize) -> Vec<Delivery> {
    eventually("the retries are due", || async {
        promote_all(broker).await;
        let queued = broker.stats().await.expect("totals").depth.queued.get("a").copied();
        (queued == Some(n as u64)).then_some(())
    })
    .await;
    let claimed = claim(broker, "a", n).await;
    assert_eq!(claimed.len(), n);
    claimed
}

/// An attempt counts from the retry on, whatever then becomes of its event, until the event ends. Then nothing is left.
pub async fn attempts_count_for_their_lane_until_their_events_end(rig: &dyn BrokerRig) {
    let broker = rig.open(short_lease()).await;
    let last = append_the_last(&*broker).await;
    broker.append(appends("a", 5)).await.expect("accepted");
    let before = bytes(&*broker).await.0;
    for delivery in claim(&*broker, "a", 5).await {
        settle_with_output(&*broker, &delivery, retry(0)).await;
    }
    let tried = bytes(&*broker).await.0;
    assert_output(tried - before, 5);
    let again = come_back(&*broker, 5).await;
    assert_eq!(bytes(&*broker).await.0, tried, "neither a promotion nor a claim changes it");

    settle_with_output(&*broker, &again[0], Settlement::Processed).await;
    let (left, failed_bytes) = bytes(&*broker).await;
    assert_eq!(failed_bytes, 0);
    assert_output(tried - left, 1);
    settle_with_output(&*broker, &again[1], failed(FailureClass::Trap)).await;
    let (left, failed_bytes) = bytes(&*broker).await;
    assert_output(tried - left, 2);
    assert_output(failed_bytes, 2);
    settle_with_output(&*broker, &again[2], Settlement::Returned).await;
    assert_eq!(bytes(&*broker).await.0, left, "it goes back as it was");
    settle_with_output(&*broker, &again[3], Settlement::Deferred { delay_ms: 0 }).await;
    assert!(bytes(&*broker).await.0.abs_diff(left) < 100, "it is as it was, apart from a count");
    let left = bytes(&*broker).await.0;
    rig.kill(broker).await;

    let broker = rig.open(short_lease()).await;
    assert_eq!(bytes(&*broker).await, (left, failed_bytes), "a restart changes nothing");
    let recovered =
        eventually("the fifth is recovered", || async { broker.recover(9).await.expect("answered").pop() }).await;
    assert_eq!(bytes(&*broker).await.0, left, "a recovery changes nothing");
    settle_with_output(&*broker, &recovered, retry(0)).await;
    let more = bytes(&*broker).await.0;
    assert_output(more - left, 1);
    assert_eq!(broker.replay(again[1].receipt.event_id, &lane("a"), None).await, Ok(FailedEventChange::Done));
    let (replayed, failed_bytes) = bytes(&*broker).await;
    assert_output(replayed - more, 2);
    assert_eq!(failed_bytes, 0);
    for delivery in come_back(&*broker, 4).await {
        settle_with_output(&*broker, &delivery, Settlement::Processed).await;
    }
    assert_eq!(bytes(&*broker).await, (last, 0), "nothing is left of the attempts");
}

/// Of several settles in one call, one that comes too late or is repeated takes off nothing, and the others exactly what
/// their own events took.
pub async fn a_settle_that_changes_nothing_takes_no_bytes_off(rig: &dyn BrokerRig) {
    let broker = rig.open(short_lease()).await;
    let last = append_the_last(&*broker).await;
    let large = deliver_one(&*broker, "a").await;
    settle_with_output(&*broker, &large, retry(0)).await;
    let late = come_back(&*broker, 1).await.remove(0);
    let large = eventually("its lease ends", || async { broker.recover(9).await.expect("answered").pop() }).await;
    let before = bytes(&*broker).await.0;
    let small = deliver_one(&*broker, "a").await;
    let done = settle(&small, Settlement::Processed, Vec::new());
    let settles = vec![with_output(&late, Settlement::Processed), done.clone()];
    let settled = broker.settle(settles).await.expect("answered");
    assert_eq!(settled, [SettleOutcome::Lost, SettleOutcome::Done]);
    assert_eq!(bytes(&*broker).await.0, before, "only the small event is gone");
    let settles = vec![done, with_output(&large, Settlement::Processed)];
    let settled = broker.settle(settles).await.expect("answered");
    assert_eq!(settled, [SettleOutcome::Done, SettleOutcome::Done]);
    assert_eq!(bytes(&*broker).await.0, last, "nothing is left of the attempts");
}

/// An event that another store held counts with the attempts that it had there.
pub async fn attempts_that_are_restored_count_for_their_lane(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let last = append_the_last(&*broker).await;
    let tried = deliver_one(&*broker, "a").await;
    let record = with_output(&tried, retry(0)).record;
    settle_one(&*broker, &tried, Settlement::Processed).await;
    assert_eq!(bytes(&*broker).await.0, last);
    rig.kill(broker).await;

    let other = rig.open(BrokerOptions { namespace: "other".into(), ..options() }).await;
    let before = bytes(&*other).await.0;
    let mut moved = record.clone();
    moved.event = Event { id: EventId::new(), ..(*record.event).clone() }.into();
    let item = SnapshotItem::Waiting(ExportedEvent { record: moved, lane: lane("a"), due: None });
    for expected in [RestoreOutcome::Done, RestoreOutcome::Known] {
        assert_eq!(other.restore(vec![item.clone()]).await.expect("restored"), [expected]);
        assert_output(bytes(&*other).await.0 - before, 1);
    }
    let delivery = claim(&*other, "a", 1).await.pop().expect("it waits");
    settle_with_output(&*other, &delivery, Settlement::Processed).await;
    assert_eq!(bytes(&*other).await.0, before);
}
