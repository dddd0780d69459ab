//! Failed and discarded events where hosts of earlier versions or other programs wrote, and where memory is full.

use eventstream::broker::contract::*;
use eventstream::broker::redis::RedisBroker;
use eventstream::broker::{BrokerOptions, Error, FailedEventChange, RetentionLimits, SettleOutcome};
use eventstream::event::{Event, EventData, EventId, EventState, FailureClass, Settlement};

use crate::rig::RedisRig;

fn large(name: &str, size_bytes: usize) -> eventstream::broker::AppendRequest {
    let data = Some(EventData::text(format!("\"{}\"", "x".repeat(size_bytes))));
    append_to(name, Event { data, ..event("order.paid") })
}

/// Lets an event of this size fail in a lane.
async fn fail_one(broker: &RedisBroker, name: &str, size_bytes: usize) -> EventId {
    broker.append(vec![large(name, size_bytes)]).await.unwrap();
    let delivery = claim(broker, name, 1).await.pop().unwrap();
    assert_eq!(settle_one(broker, &delivery, failed(FailureClass::Reject)).await, SettleOutcome::Done);
    delivery.record.event.id
}

async fn failed_bytes(broker: &RedisBroker) -> Vec<(String, u64)> {
    broker.stats().await.unwrap().depth.failed_bytes_by_lane.into_iter().filter(|(_, bytes)| *bytes > 0).collect()
}

/// Removes the totals that a host of an earlier version does not write.
fn forget_totals(rig: &RedisRig) {
    let counts = RedisRig::key("counts");
    let fields: Vec<String> = rig.admin(&["HKEYS", &counts]);
    for field in fields.iter().filter(|field| field.starts_with("failed-bytes:") || *field == "failed-counted") {
        let _: u64 = rig.admin(&["HDEL", &counts, field]);
    }
}

#[tokio::test]
async fn failed_events_of_an_earlier_version_are_counted_by_maintenance() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let mut ids = Vec::new();
    for n in 0..30 {
        ids.push(fail_one(&broker, ["a", "b"][n % 2], 100 * n).await);
    }
    ids.push(fail_one(&broker, "a", 1_500_000).await);
    ids.push(fail_one(&broker, "b", 1_500_000).await);
    let counted = failed_bytes(&broker).await;
    while broker.maintain().await.unwrap() {}
    assert_eq!(failed_bytes(&broker).await, counted);
    forget_totals(&rig);
    assert!(failed_bytes(&broker).await.is_empty());

    // What is replayed or discarded before it is counted makes no total negative.
    for id in ids.drain(..2) {
        assert_eq!(broker.discard(id, "tested", None).await, Ok(FailedEventChange::Done));
    }
    assert!(failed_bytes(&broker).await.is_empty());
    while broker.maintain().await.unwrap() {}
    let left = failed_bytes(&broker).await;
    for (before, after) in counted.iter().zip(&left) {
        assert!(before.0 == after.0 && before.1 > after.1 && before.1 - after.1 < 2_000, "{before:?} {after:?}");
    }
    for id in ids {
        assert_eq!(broker.discard(id, "tested", None).await, Ok(FailedEventChange::Done));
    }
    assert!(failed_bytes(&broker).await.is_empty());
}

#[tokio::test]
async fn failed_events_that_others_removed_count_no_more_after_maintenance() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    for _ in 0..3 {
        fail_one(&broker, "a", 1_000).await;
    }
    let kept = fail_one(&broker, "b", 1_000).await;
    let of_b = failed_bytes(&broker).await.pop().unwrap();
    let _: u64 = rig.admin(&["XTRIM", &RedisRig::key("failed"), "MAXLEN", "=", "1"]);
    let _: String = rig.admin(&["XADD", &RedisRig::key("failed"), "*", "foreign", "entry"]);
    while broker.maintain().await.unwrap() {}
    assert_eq!(failed_bytes(&broker).await, [of_b]);
    assert_eq!(broker.discard(kept, "tested", None).await, Ok(FailedEventChange::Done));
    assert!(failed_bytes(&broker).await.is_empty());
}

#[tokio::test]
async fn with_full_memory_failed_events_are_discarded_and_their_lane_accepts_again() {
    let rig = RedisRig::new();
    let broker = rig.direct(BrokerOptions { max_waiting_bytes: 50_000, ..options() }).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(fail_one(&broker, "hog", 12_000).await);
    }
    assert!(broker.stats().await.is_ok());
    let heavy = broker.append(vec![large("hog", 2_000)]).await;
    let Err(Error::LaneHeavy { waiting_bytes: 0, failed_bytes: 48_000.., limit_bytes: 50_000, .. }) = heavy else {
        panic!("{heavy:?}")
    };
    broker.append(appends("innocent", 1)).await.unwrap();
    let held = claim(&*broker, "innocent", 1).await.pop().unwrap();

    let () = rig.admin(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(settle_one(&*broker, &held, failed(FailureClass::Reject)).await, SettleOutcome::Done);
    for id in &ids[..3] {
        assert_eq!(broker.discard(*id, "tested", None).await, Ok(FailedEventChange::Done));
    }
    while broker.maintain().await.unwrap() {}
    let () = rig.admin(&["CONFIG", "SET", "maxmemory", "0"]);
    // A share of the memory was the limit meanwhile.
    eventually("the lane accepts again", || async {
        broker.stats().await.unwrap();
        broker.append(appends("hog", 1)).await.ok()
    })
    .await;
    assert_eq!(claim(&*broker, "hog", 9).await.len(), 1);
}

#[tokio::test]
async fn a_history_of_large_events_is_trimmed_by_bytes() {
    let rig = RedisRig::new();
    let retention = RetentionLimits { processed_max_bytes: 3_000_000, ..BrokerOptions::default().retention };
    let broker = rig.direct(BrokerOptions { retention, ..options() }).await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        broker.append(vec![large("a", 1_200_000)]).await.unwrap();
        let delivery = claim(&*broker, "a", 1).await.pop().unwrap();
        assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
        ids.push(delivery.record.event.id);
    }
    while broker.maintain().await.unwrap() {}
    let mut kept = Vec::new();
    for id in ids {
        kept.push(state(&*broker, id).await);
    }
    assert_eq!(kept[..6], [None; 6]);
    assert_eq!(kept[6..], [Some(EventState::Processed); 2]);
}

#[tokio::test]
async fn a_misplaced_key_of_discarded_events_stops_only_discarding() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let id = fail_one(&broker, "a", 10).await;
    let () = rig.admin(&["SET", &RedisRig::key("discarded"), "foreign"]);
    let refused = broker.discard(id, "tested", None).await.unwrap_err().to_string();
    assert!(refused.contains("discarded"), "{refused}");
    assert_eq!(state(&*broker, id).await, Some(EventState::Failed));
    eventually("it is told", || async { broker.health().trouble.filter(|trouble| trouble.contains("discarded")) })
        .await;
    let _: u64 = rig.admin(&["DEL", &RedisRig::key("discarded")]);
    assert_eq!(broker.discard(id, "tested", None).await, Ok(FailedEventChange::Done));
    assert!(broker.maintain().await.is_ok());
}
