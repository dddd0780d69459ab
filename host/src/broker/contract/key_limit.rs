//! The limit of idempotency keys: it refuses whoever has too many, and no key ends before its window (G6, G8, G12).

use super::*;
use crate::broker::{Error, ExportedKey, RetentionLimits, SnapshotItem};

/// So little that a case reaches it, and still the keys of more than ten events on each store.
const LIMIT_BYTES: u64 = 10_000;

fn limited(window_ms: u64) -> BrokerOptions {
    let usual = BrokerOptions::default().retention;
    let retention = RetentionLimits { idempotency_max_bytes: LIMIT_BYTES, idempotency_ms: window_ms, ..usual };
    BrokerOptions { retention, ..options() }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// An event with a key of its own.
fn keyed(name: &str, number: u32) -> AppendRequest {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    key[4..5].copy_from_slice(&name.as_bytes()[..1]);
    AppendRequest {
        idempotency: Some(Idempotency { key, fingerprint: [1; 32] }),
        ..append_to(name, event("order.paid"))
    }
}

/// Appends events with new keys until one is refused, and returns how many were accepted and the refusal.
async fn fill(broker: &dyn Broker, name: &str, from: u32) -> (u32, Error) {
    for number in from.. {
        if let Err(refusal) = broker.append(vec![keyed(name, number)]).await {
            return (number - from, refusal);
        }
    }
    panic!("numbers do not end");
}

async fn key_bytes(broker: &dyn Broker, name: &str) -> u64 {
    let depth = broker.stats().await.expect("totals").depth;
    assert_eq!(depth.max_idempotency_bytes, Some(LIMIT_BYTES));
    depth.idempotency_bytes_by_lane.get(name).copied().unwrap_or(0)
}

/// A lane gets no more new keys than its part and the common half. Its other events and its duplicates are accepted, and
/// other lanes have their own parts. All of it survives a crash.
pub async fn a_lane_with_too_many_keys_gets_no_new_ones_and_loses_none(rig: &dyn BrokerRig) {
    let broker = rig.open(limited(DAY_MS)).await;
    broker.append([appends("a", 1), appends("b", 1), appends("_", 1)].concat()).await.expect("no key is no key");
    let (accepted, refusal) = fill(&*broker, "a", 0).await;
    let Error::KeysFull { lane: of, lane_bytes, all_bytes, limit_bytes: LIMIT_BYTES } = &refusal else {
        panic!("{refusal:?}")
    };
    assert_eq!((of, lane_bytes), (&lane("a"), all_bytes));
    assert!(refusal.is_transient() && refusal.to_string().contains("retention.idempotency_max_bytes"), "{refusal}");
    assert_eq!(key_bytes(&*broker, "a").await, *lane_bytes);
    assert!((LIMIT_BYTES / 2..LIMIT_BYTES).contains(lane_bytes), "{lane_bytes}");
    rig.kill(broker).await;

    let broker = rig.open(limited(DAY_MS)).await;
    assert_eq!(broker.append(vec![keyed("a", accepted)]).await, Err(refusal.clone()));
    broker.append(appends("a", 3)).await.expect("events without keys are accepted");
    let again = (0..accepted).map(|number| keyed("a", number)).collect();
    let known = broker.append(again).await.expect("each key is known");
    assert!(known.iter().all(|answer| answer.duplicate));
    let other = keyed("a", 0);
    let other =
        AppendRequest { idempotency: other.idempotency.map(|it| Idempotency { fingerprint: [2; 32], ..it }), ..other };
    assert_eq!(broker.append(vec![other]).await, Err(Error::Conflict(vec![0])));
    let both = vec![keyed("b", 0), keyed("a", accepted)];
    assert_eq!(broker.append(both).await, Err(refusal.clone()), "all of a request or none");
    assert_eq!(key_bytes(&*broker, "b").await, 0, "the refused request took no key");

    let (of_b, full) = fill(&*broker, "b", 0).await;
    assert!(of_b >= 4 && matches!(&full, Error::KeysFull { lane: of, .. } if *of == lane("b")), "{of_b}: {full}");
    let (unhandled, full) = fill(&*broker, "_", 0).await;
    assert!(unhandled >= 4 && full.to_string().contains("no plugin handles"), "{unhandled}: {full}");
    let depth = broker.stats().await.expect("totals").depth;
    let all: u64 = depth.idempotency_bytes_by_lane.values().sum();
    assert!(all <= LIMIT_BYTES && all > LIMIT_BYTES - 1_500, "{:?}", depth.idempotency_bytes_by_lane);
}

/// Of many requests at once, and of one with many events, a lane gets exactly as many keys as one by one.
pub async fn the_limit_of_keys_is_exact_for_batches_and_many_clients(rig: &dyn BrokerRig) {
    let broker = rig.open(limited(DAY_MS)).await;
    broker.append(appends("b", 1)).await.expect("accepted");
    let tries = 200;
    let whole = broker.append((0..tries).map(|number| keyed("a", number)).collect()).await;
    assert!(matches!(whole, Err(Error::KeysFull { lane_bytes: 0, all_bytes: 0, .. })), "{whole:?}");
    let answers =
        futures_util::future::join_all((0..tries).map(|number| broker.append(vec![keyed("a", number)]))).await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    let lane_bytes = key_bytes(&*broker, "a").await;
    assert!(accepted > 10 && lane_bytes < LIMIT_BYTES, "{accepted} keys of {lane_bytes} bytes");
    let a_key = lane_bytes / accepted as u64;
    assert_eq!(lane_bytes, a_key * accepted as u64);
    let lanes = broker.lanes().len() as u64;
    let most = LIMIT_BYTES / a_key;
    assert_eq!(accepted as u64, most - most / 2 / lanes * (lanes - 1));
    let refused = answers.into_iter().filter_map(Result::err).all(|error| matches!(error, Error::KeysFull { .. }));
    assert!(refused, "for no other reason");
}

/// When windows end, their keys make room for others.
pub async fn keys_that_ended_make_room_for_others(rig: &dyn BrokerRig) {
    let broker = rig.open(limited(SHORT_LEASE_MS)).await;
    broker.append(appends("a", 1)).await.expect("accepted");
    let wanted = 300;
    for number in 0..wanted {
        eventually("there is room", || async {
            broker.maintain().await.expect("maintained");
            match broker.append(vec![keyed("a", number)]).await {
                Ok(_) => Some(()),
                Err(Error::KeysFull { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
    }
    // A key whose window is over may come again before it is forgotten, and counts once.
    broker.append(vec![keyed("a", wanted - 1)]).await.expect("accepted, or known");
    eventually("all have ended", || async {
        broker.maintain().await.expect("maintained");
        (key_bytes(&*broker, "a").await == 0).then_some(())
    })
    .await;
}

/// Keys that are restored count until they end.
pub async fn keys_that_are_restored_count(rig: &dyn BrokerRig) {
    let broker = rig.open(limited(DAY_MS)).await;
    let key = |number: u8, ms: u64| {
        let idempotency = idempotency(number, 1).expect("a key");
        SnapshotItem::Key(ExportedKey { idempotency, id: EventId::new(), until: now().plus_ms(ms) })
    };
    let keys = || vec![key(1, 60_000), key(2, DAY_MS), key(3, 2 * DAY_MS)];
    broker.restore(keys()).await.expect("restored");
    let bytes = key_bytes(&*broker, "_").await;
    assert!(bytes > 3 * 100, "{bytes}");
    broker.restore(keys()).await.expect("restored");
    assert_eq!(key_bytes(&*broker, "_").await, bytes, "they are known");
    broker.restore(vec![key(4, 1_000)]).await.expect("restored");
    eventually("the last has ended", || async {
        broker.maintain().await.expect("maintained");
        (key_bytes(&*broker, "_").await == bytes).then_some(())
    })
    .await;
}
