//! A key of a lane that has something else in it stops only that lane, and the broker names it.

use eventstream::broker::contract::*;
use eventstream::broker::redis::RedisBroker;
use eventstream::broker::{ClaimRequest, Error, LaneDemand, SettleOutcome};
use eventstream::event::{DeliveryStart, EventState, Settlement};

use crate::rig::RedisRig;

/// The key of a lane, with something else in it.
fn spoil(rig: &RedisRig, lane: &str) -> String {
    let key = RedisRig::key(&format!("q:{lane}"));
    let () = rig.admin(&["DEL", &key]);
    let () = rig.admin(&["SET", &key, "something else"]);
    key
}

async fn is_named(broker: &RedisBroker, key: &str) {
    eventually("the key is named, with what to do", || async {
        broker.health().trouble.filter(|trouble| trouble.contains(key) && trouble.contains("rename or remove it"))
    })
    .await;
}

#[tokio::test]
async fn only_events_for_a_bad_lane_are_refused() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.append(appends("good", 1)).await.unwrap();
    broker.append(appends("bad", 1)).await.unwrap();
    let key = spoil(&rig, "bad");
    broker.append(appends("good", 1)).await.unwrap();
    broker.append(appends("new", 1)).await.expect("lanes are made as ever");
    let mut mixed = appends("good", 1);
    mixed.extend(appends("bad", 1));
    let mut delayed = appends("bad", 1);
    delayed[0].start = DeliveryStart::InMs(60_000);
    let mut keyed = appends("bad", 1);
    keyed[0].idempotency = idempotency(3, 3);
    for refused in [appends("bad", 1), mixed, delayed, keyed.clone()] {
        let answer = broker.append(refused).await;
        assert!(matches!(&answer, Err(Error::Misconfigured(why)) if why.contains(&key)), "{answer:?}");
    }
    is_named(&broker, &key).await;
    assert_eq!(claim(&*broker, "good", 9).await.len(), 2, "of the request of two nothing was appended");
    assert_eq!(rig.admin::<u64>(&["ZCARD", &RedisRig::key("due")]), 0);
    assert_eq!(broker.stats().await.expect("totals").counters.accepted, 4);

    let () = rig.admin(&["DEL", &key]);
    assert!(!broker.append(keyed).await.unwrap()[0].duplicate, "nothing was remembered of what was refused");
    assert_eq!(claim(&*broker, "bad", 9).await.len(), 1);
    eventually("the trouble is over", || async { broker.health().ready().then_some(()) }).await;
}

#[tokio::test]
async fn together_with_an_event_for_a_bad_lane_the_others_are_accepted() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let _: u64 = rig.admin(&["SADD", &RedisRig::key("lanes"), "bad"]);
    spoil(&rig, "bad");
    let requests = (0..20).map(|n| broker.append(appends(if n == 7 { "bad" } else { "good" }, 1)));
    for (n, answer) in futures_util::future::join_all(requests).await.iter().enumerate() {
        assert_eq!(answer.is_ok(), n != 7, "request {n}: {answer:?}");
    }
    assert_eq!(claim(&*broker, "good", 50).await.len(), 19);
}

#[tokio::test]
async fn a_bad_lane_does_not_hold_up_what_is_due_in_others() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let mut events = appends("bad", 250);
    events.extend(appends("good", 1));
    events.iter_mut().for_each(|event| event.start = DeliveryStart::InMs(1));
    let accepted = broker.append(events).await.unwrap();
    let key = spoil(&rig, "bad");
    let good = eventually("the event of the other lane is promoted", || async {
        broker.promote().await.expect("promoted");
        claim(&*broker, "good", 1).await.pop()
    })
    .await;
    assert_eq!(settle_one(&*broker, &good, retry(1)).await, SettleOutcome::Done);
    let good = eventually("a retry of the other lane is promoted", || async {
        broker.promote().await.expect("promoted");
        claim(&*broker, "good", 1).await.pop()
    })
    .await;
    assert_eq!(settle_one(&*broker, &good, Settlement::Processed).await, SettleOutcome::Done);
    is_named(&broker, &key).await;
    let promoted = eventually("there is nothing to move", || async {
        Some(broker.promote().await.expect("promoted")).filter(|promoted| !promoted.more)
    })
    .await;
    assert!(promoted.next_due_in_ms.is_some(), "they stay in the schedule");

    let () = rig.admin(&["DEL", &key]);
    eventually("all of the lane are promoted", || async {
        promote_all(&*broker).await;
        (broker.stats().await.expect("totals").depth.scheduled == 0).then_some(())
    })
    .await;
    assert_eq!(claim(&*broker, "bad", 300).await.len(), 250);
    assert_eq!(state(&*broker, accepted[0].id).await, Some(EventState::Running));
}

#[tokio::test]
async fn with_a_bad_lane_a_host_still_keeps_house_and_shows_that_it_lives() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let other = rig.direct(short_lease()).await;
    broker.append(appends("bad", 1)).await.unwrap();
    broker.append(appends("good", 2)).await.unwrap();
    let key = spoil(&rig, "bad");
    let heartbeat = async || -> u64 { rig.admin(&["HGET", &RedisRig::key("hb"), &format!("c:{}", broker.consumer())]) };
    let before = heartbeat().await;
    broker.maintain().await.expect("a lane that is wrong is no failure");
    assert_eq!(heartbeat().await, before + 1);
    is_named(&broker, &key).await;
    // The broker learns of lanes that others create, and waits end for them, although one lane cannot be read.
    other.append(appends("later", 1)).await.unwrap();
    broker.maintain().await.expect("maintained");
    assert!(broker.lanes().contains(&lane("later")));
    broker.wait_for_work(&["bad", "good", "later"].map(lane)).await.expect("the wait does not fail");
    let lanes = ["bad", "good", "later"].map(|name| LaneDemand { lane: lane(name), free: 9 });
    let claimed = broker.claim(ClaimRequest { lanes: lanes.to_vec(), max: 9 }).await.unwrap();
    assert_eq!(claimed.len(), 3);
    is_named(&broker, &key).await;
    for delivery in &claimed {
        assert_eq!(settle_one(&*broker, delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    assert_eq!(broker.recover(9).await, Ok(Vec::new()));
    assert_eq!(broker.stats().await.expect("totals").counters.processed, 3);
    // A host that starts now serves the others as well.
    let third = rig.direct(options()).await;
    third.append(appends("good", 1)).await.unwrap();
    is_named(&third, &key).await;

    let () = rig.admin(&["DEL", &key]);
    broker.append(appends("bad", 1)).await.unwrap();
    broker.maintain().await.expect("maintained");
    assert_eq!(claim(&*broker, "bad", 9).await.len(), 1);
    eventually("the trouble is over", || async { broker.health().ready().then_some(()) }).await;
}

#[tokio::test]
async fn a_step_of_house_keeping_that_fails_does_not_keep_the_others_from_running() {
    let rig = RedisRig::new();
    let mut few = options();
    few.retention.processed_max = 0;
    let broker = rig.direct(few).await;
    let delivery = deliver_one(&*broker, "a").await;
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    let () = rig.admin(&["DEL", &RedisRig::key("lanes")]);
    let () = rig.admin(&["SET", &RedisRig::key("lanes"), "something else"]);
    let refused = broker.maintain().await;
    assert!(matches!(&refused, Err(Error::Misconfigured(why)) if why.contains("lanes")), "{refused:?}");
    assert_eq!(rig.admin::<u64>(&["XLEN", &RedisRig::key("done")]), 0, "history is trimmed all the same");
    let () = rig.admin(&["DEL", &RedisRig::key("lanes")]);
    broker.maintain().await.expect("maintained");
    assert!(broker.lanes().contains(&lane("a")), "the lanes that are known are made again");
}

#[tokio::test]
async fn a_loss_is_noticed_though_a_lane_is_bad() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.append(appends("bad", 5)).await.unwrap();
    let key = spoil(&rig, "bad");
    is_named(&broker, &key).await;
    let () = rig.admin(&["HSET", &RedisRig::key("counts"), "accepted", "3"]);
    eventually("the loss is counted", || async {
        let stats = broker.stats().await.ok()?;
        (stats.counters.data_losses == 1).then_some(())
    })
    .await;
    eventually("it goes on", || async { broker.append(appends("good", 1)).await.ok() }).await;
}
