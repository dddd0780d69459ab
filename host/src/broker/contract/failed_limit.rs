//! Failed events count towards their lane's limit of bytes (G8, G12), until they are replayed and processed, or
//! discarded.

use super::ends::ids_of;
use super::*;
use crate::broker::{Error, FailedEventChange, SnapshotItem};

const LIMIT_BYTES: u64 = 55_000;

fn limited() -> BrokerOptions {
    BrokerOptions { max_waiting_bytes: LIMIT_BYTES, ..options() }
}

fn large(n: usize) -> Vec<AppendRequest> {
    let event = || Event { data: Some(EventData::text("x".repeat(10_000))), ..event("order.paid") };
    (0..n).map(|_| append_to("a", event())).collect()
}

/// The waiting and the failed bytes of the lane `a`. A store may learn of them here.
async fn bytes(broker: &dyn Broker) -> (u64, u64) {
    let depth = broker.stats().await.expect("totals").depth;
    let of = |by_lane: &BTreeMap<String, u64>| by_lane.get("a").copied().unwrap_or(0);
    (of(&depth.waiting_bytes_by_lane), of(&depth.failed_bytes_by_lane))
}

/// Appends `n` large events to the lane `a` and fails them as a plugin does.
async fn fail(broker: &dyn Broker, n: usize) -> Vec<EventId> {
    broker.append(large(n)).await.expect("one request may be as large as it is");
    fail_waiting(broker, n).await
}

async fn fail_waiting(broker: &dyn Broker, n: usize) -> Vec<EventId> {
    let mut ids = Vec::new();
    for delivery in claim(broker, "a", n).await {
        let mut settle = settle(&delivery, failed(FailureClass::Reject), Vec::new());
        for attempt in &mut settle.record.attempts {
            attempt.plugin = Some("a".into());
        }
        ids.push(delivery.receipt.event_id);
        for outcome in ["it failed", "it is repeated"] {
            let settled = broker.settle(vec![settle.clone()]).await.expect("answered");
            assert_eq!(settled, [SettleOutcome::Done], "{outcome}");
        }
    }
    assert_eq!(ids.len(), n);
    ids
}

/// The store refuses the clients of a lane that is full of failed events, and of no other lane, until enough of them
/// are discarded.
pub async fn a_lane_full_of_failed_events_refuses_its_own_until_some_are_discarded(rig: &dyn BrokerRig) {
    let broker = rig.open(limited()).await;
    let ids = fail(&*broker, 6).await;
    let (waiting, failed_bytes) = bytes(&*broker).await;
    assert_eq!(waiting, 0);
    assert!((60_000..72_000).contains(&failed_bytes), "{failed_bytes}");
    let refusal = broker.append(large(1)).await.expect_err("the lane is full");
    assert_eq!(refusal, Error::LaneHeavy { lane: lane("a"), waiting_bytes: 0, failed_bytes, limit_bytes: LIMIT_BYTES });
    assert!(refusal.is_transient());
    let told = refusal.to_string();
    assert!(told.contains(&format!("{failed_bytes} bytes of them are failed events")), "{told}");
    assert!(told.contains("eventstream failed discard --plugin a"), "{told}");
    broker.append(appends("b", 1)).await.expect("another plugin's events are taken");
    rig.kill(broker).await;

    let broker = rig.open(limited()).await;
    assert_eq!(bytes(&*broker).await, (0, failed_bytes), "a restart changes nothing");
    for id in &ids[..2] {
        assert_eq!(broker.discard(*id, "of no use", None).await, Ok(FailedEventChange::Done));
    }
    let left = bytes(&*broker).await.1;
    assert!((40_000..48_000).contains(&left), "{left}");
    assert_eq!(broker.discard(ids[0], "again", None).await, Ok(FailedEventChange::NotFailed(EventState::Discarded)));
    assert_eq!(bytes(&*broker).await.1, left, "once");
    broker.append(large(1)).await.expect("there is room again");
}

/// A replay moves the bytes of an event from the failed ones to the waiting ones, and another failure moves them back.
pub async fn a_replay_moves_the_bytes_of_a_failed_event(rig: &dyn BrokerRig) {
    let broker = rig.open(limited()).await;
    let ids = fail(&*broker, 3).await;
    let (_, before) = bytes(&*broker).await;
    assert_eq!(broker.replay(ids[0], &lane("a"), None).await, Ok(FailedEventChange::Done));
    let (waiting, left) = bytes(&*broker).await;
    assert!((10_000..12_000).contains(&waiting), "{waiting}");
    assert!((10_000..12_000).contains(&(before - left)), "{before} to {left}");
    assert_eq!(fail_waiting(&*broker, 1).await, ids[..1]);
    let (waiting, again) = bytes(&*broker).await;
    assert_eq!(waiting, 0);
    assert!((before..before + 1_000).contains(&again), "it has one more attempt: {before} to {again}");

    assert_eq!(broker.replay(ids[0], &lane("a"), None).await, Ok(FailedEventChange::Done));
    assert_eq!(broker.replay(ids[1], &lane("b"), None).await, Ok(FailedEventChange::Done));
    assert_eq!(broker.discard(ids[2], "", None).await, Ok(FailedEventChange::Done));
    for name in ["a", "b"] {
        for delivery in claim(&*broker, name, 9).await {
            assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
        }
    }
    assert_eq!(bytes(&*broker).await, (0, 0), "nothing is left of what was added");
}

/// Failed events are listed by the lane that they count against, and moved to another store they count there as well.
pub async fn failed_events_are_listed_and_moved_with_their_lane(rig: &dyn BrokerRig) {
    let broker = rig.open(limited()).await;
    let ids = fail(&*broker, 2).await;
    let unhandled = deliver_one(&*broker, "_").await;
    assert_eq!(settle_one(&*broker, &unhandled, failed(FailureClass::NoHandler)).await, SettleOutcome::Done);
    let of_lane = async |broker: &dyn Broker, name: &str| {
        ids_of(broker, EndedQuery { lane: Some(lane(name)), limit: 1, ..ended(EndKind::Failed) }).await
    };
    let newest_first: Vec<EventId> = ids.iter().rev().copied().collect();
    assert_eq!(of_lane(&*broker, "a").await, newest_first);
    assert_eq!(of_lane(&*broker, "_").await, [unhandled.receipt.event_id]);
    assert_eq!(of_lane(&*broker, "nobody").await, []);
    let (_, before) = bytes(&*broker).await;
    let records = all_ended(&*broker, EndKind::Failed).await;
    rig.kill(broker).await;

    let other = rig.open(BrokerOptions { namespace: "other".into(), ..limited() }).await;
    other.restore(records.into_iter().map(SnapshotItem::Failed).collect()).await.expect("restored");
    let (waiting, moved) = bytes(&*other).await;
    assert_eq!(waiting, 0);
    assert!(moved.abs_diff(before) < 500, "{before} there, {moved} here");
    let mut listed = of_lane(&*other, "a").await;
    listed.sort();
    assert_eq!(listed, ids);
    for id in ids {
        assert_eq!(other.discard(id, "", None).await, Ok(FailedEventChange::Done));
    }
    assert_eq!(bytes(&*other).await, (0, 0));
    assert_eq!(of_lane(&*other, "a").await, []);
}
