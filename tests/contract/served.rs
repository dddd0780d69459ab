//! Consumers tell each other which types they serve, and leave events to a consumer that serves them.

use std::sync::Mutex;

use eventstream::broker::contract::*;
use eventstream::broker::{ConsumerCoverage, Lane, PeerCoverage};
use eventstream::event::EventType;

use crate::rig::RedisRig;

fn served(name: &str, patterns: &[&str]) -> ConsumerCoverage {
    ConsumerCoverage::new([(lane(name), patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())], false)
}

fn lane_of(elsewhere: &PeerCoverage, event_type: &str) -> Option<Lane> {
    elsewhere.lane_of(&event_type.parse::<EventType>().unwrap()).cloned()
}

#[tokio::test]
async fn what_one_serves_is_known_to_the_others_with_the_next_look() {
    let rig = RedisRig::new();
    let (one, other) = (rig.direct(options()).await, rig.direct(options()).await);
    assert!(other.refresh_peer_coverage().await.unwrap().some_are_silent(), "who has said nothing yet is starting");
    one.announce_coverage(served("orders", &["order.*"])).await.unwrap();
    let seen = other.refresh_peer_coverage().await.unwrap();
    assert_eq!((lane_of(&seen, "order.paid"), lane_of(&seen, "refund")), (Some(lane("orders")), None));
    assert!(!seen.some_are_silent());
    assert_eq!(other.peer_coverage(), seen);
    assert_eq!(lane_of(&one.refresh_peer_coverage().await.unwrap(), "order.paid"), None, "it is not elsewhere");
    one.announce_coverage(served("orders", &["refund"])).await.unwrap();
    other.maintain().await.unwrap();
    let seen = other.peer_coverage();
    assert_eq!((lane_of(&seen, "order.paid"), lane_of(&seen, "refund")), (None, Some(lane("orders"))));
}

#[tokio::test]
async fn what_the_dead_left_in_the_lane_of_another_is_left_to_it() {
    let rig = RedisRig::new();
    let dead = rig.direct(short_lease()).await;
    for name in ["orders", "_"] {
        dead.append(appends(name, 1)).await.unwrap();
        assert_eq!(claim(&*dead, name, 1).await.len(), 1);
    }
    drop(dead);
    let (one, other) = (rig.direct(short_lease()).await, rig.direct(short_lease()).await);
    one.announce_coverage(served("orders", &["order.*"])).await.unwrap();
    other.refresh_peer_coverage().await.unwrap();
    let lanes = Mutex::new(Vec::new());
    let taken = eventually("the one that serves it takes it over", || async {
        // The other consumer always looks first.
        let others = other.recover(9).await.unwrap().into_iter().map(|delivery| delivery.receipt.lane);
        lanes.lock().unwrap().extend(others);
        one.recover(9).await.unwrap().into_iter().find(|delivery| delivery.receipt.lane == lane("orders"))
    })
    .await;
    assert_eq!((taken.deliveries, taken.deliveries_in_a_row()), (2, 2));
    let lanes = lanes.into_inner().unwrap();
    assert!(lanes.iter().all(|it| *it == Lane::unrouted()), "{lanes:?}");
}

#[tokio::test]
async fn who_serves_what_nobody_else_does_takes_over_its_own_lanes() {
    let rig = RedisRig::new();
    let dead = rig.direct(short_lease()).await;
    dead.announce_coverage(served("orders", &["order.*"])).await.unwrap();
    dead.append(appends("orders", 1)).await.unwrap();
    assert_eq!(claim(&*dead, "orders", 1).await.len(), 1);
    drop(dead);
    let heir = rig.direct(short_lease()).await;
    heir.announce_coverage(served("orders", &["order.*"])).await.unwrap();
    let taken = eventually("it is taken over", || async { heir.recover(9).await.unwrap().pop() }).await;
    assert_eq!(taken.deliveries, 2);
}

#[tokio::test]
async fn a_consumer_of_an_earlier_version_is_silent_while_it_lives() {
    let rig = RedisRig::new();
    let broker = rig.direct(short_lease()).await;
    let hb = RedisRig::key("hb");
    let () = rig.admin(&["HSET", &hb, "c:old", "7", "i:old", "", "s:forgotten-by-an-old-one", "{}"]);
    eventually("it is seen", || async {
        broker.refresh_peer_coverage().await.unwrap().some_are_silent().then_some(())
    })
    .await;
    eventually("it is dead", || async {
        (!broker.refresh_peer_coverage().await.unwrap().some_are_silent()).then_some(())
    })
    .await;
    let known: Vec<String> = rig.admin(&["HKEYS", &hb]);
    assert!(!known.iter().any(|field| field == "s:forgotten-by-an-old-one"), "{known:?}");
    // Earlier versions read numbers and identities behind these two prefixes.
    let beats: i64 = rig.admin(&["HGET", &hb, &format!("c:{}", broker.consumer())]);
    assert!(beats > 0 && known.contains(&format!("i:{}", broker.consumer())));
}

#[tokio::test]
async fn who_is_closed_leaves_nothing_of_what_it_said() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.announce_coverage(served("orders", &["order.*"])).await.unwrap();
    broker.close().await.unwrap();
    let known: Vec<String> = rig.admin(&["HKEYS", &RedisRig::key("hb")]);
    assert_eq!(known, ["served"]);
}
