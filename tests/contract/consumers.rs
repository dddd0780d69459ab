//! Several consumers at a time, and mutants of the broker that the tests must detect.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use eventstream::broker::contract::*;
use eventstream::broker::redis::RedisBroker;
use eventstream::broker::redis::testing::BrokerMutant;
use eventstream::broker::{BrokerOptions, EndKind, RetentionLimits, SettleOutcome, SettleRequest};
use eventstream::event::{DeliveryStart, EventId, EventState, Settlement, StateChanges, StateWrite};
use futures_util::FutureExt;
use futures_util::future::join_all;

use crate::rig::RedisRig;

#[tokio::test]
async fn who_lost_a_lease_to_another_consumer_changes_nothing() {
    let rig = RedisRig::new();
    let slow = rig.direct(short_lease()).await;
    let quick = rig.direct(short_lease()).await;
    let stale = deliver_one(&*slow, "a").await;
    let taken = eventually("the other one takes over", || async { quick.recover(9).await.unwrap().pop() }).await;
    assert_eq!(taken.deliveries, 2);
    let leases = slow.lease_renewal();
    assert_eq!(leases.renew(std::slice::from_ref(&stale.receipt)).await, Ok(vec![stale.receipt.clone()]));
    let rows: Vec<(String, String, u64, u64)> = rig.admin(&["XPENDING", &RedisRig::key("q:a"), "es", "-", "+", "9"]);
    assert_eq!((rows[0].1.as_str(), rows[0].3), (quick.consumer(), 2), "a renewal does not steal");
    let lost = slow.settle(vec![settle(&stale, Settlement::Processed, appends("children", 2))]).await;
    assert_eq!(lost, Ok(vec![SettleOutcome::Lost]));
    // A receipt is also refused if another consumer presents it.
    assert_eq!(settle_one(&*slow, &taken, Settlement::Processed).await, SettleOutcome::Lost);
    assert_eq!(settle_one(&*quick, &taken, Settlement::Processed).await, SettleOutcome::Done);
    assert_eq!(settle_one(&*slow, &taken, Settlement::Processed).await, SettleOutcome::Lost);
    assert!(claim(&*quick, "children", 9).await.is_empty());
    let counters = quick.stats().await.unwrap().counters;
    assert_eq!((counters.processed, counters.recovered, counters.published), (1, 1, 0));
}

#[tokio::test]
async fn several_promoters_move_each_event_once() {
    let rig = RedisRig::new();
    let brokers = [rig.direct(options()).await, rig.direct(options()).await, rig.direct(options()).await];
    let mut events = appends("a", 500);
    events.iter_mut().for_each(|event| event.start = DeliveryStart::InMs(50));
    brokers[0].append(events).await.unwrap();
    let mut moved = 0;
    while moved < 500 {
        let rounds = join_all(brokers.iter().map(|broker| broker.promote())).await;
        moved += rounds.iter().map(|promoted| promoted.as_ref().unwrap().moved).sum::<usize>();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(moved, 500);
    let delivered: HashSet<_> =
        claim(&*brokers[1], "a", 500).await.iter().map(|delivery| delivery.record.event.id).collect();
    assert_eq!(delivered.len(), 500);
    assert!(claim(&*brokers[2], "a", 500).await.is_empty());
}

#[tokio::test]
async fn several_takers_take_each_delivery_once() {
    let rig = RedisRig::new();
    // Longer than a busy machine delays a renewal.
    let patient = || BrokerOptions { lease_ms: 5_000, ..options() };
    let dead = rig.direct(patient()).await;
    dead.append(appends("a", 60)).await.unwrap();
    assert_eq!(claim(&*dead, "a", 60).await.len(), 60);
    drop(dead);
    let takers = [rig.direct(patient()).await, rig.direct(patient()).await, rig.direct(patient()).await];
    let mut taken: Vec<(usize, eventstream::broker::Delivery)> = Vec::new();
    let began = std::time::Instant::now();
    while taken.len() < 60 {
        assert!(began.elapsed() < Duration::from_secs(120), "{} of 60 were taken", taken.len());
        for (n, some) in join_all(takers.iter().map(|taker| taker.recover(10))).await.into_iter().enumerate() {
            taken.extend(some.unwrap().into_iter().map(|delivery| (n, delivery)));
        }
        for (n, taker) in takers.iter().enumerate() {
            taker.maintain().await.unwrap();
            let receipts: Vec<_> = taken.iter().filter(|(m, _)| *m == n).map(|(_, d)| d.receipt.clone()).collect();
            assert_eq!(taker.lease_renewal().renew(&receipts).await, Ok(Vec::new()), "nobody takes what is held");
        }
    }
    let ids: HashSet<_> = taken.iter().map(|(_, delivery)| delivery.record.event.id).collect();
    assert_eq!((ids.len(), taken.len()), (60, 60));
    for (n, delivery) in &taken {
        assert_eq!(settle_one(&*takers[*n], delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    assert_eq!(takers[0].stats().await.unwrap().counters.processed, 60);
}

/// A consumer that holds one event, with the identity of a process.
fn plant_consumer(rig: &RedisRig, name: &str, identity: &str) {
    let lane_key = RedisRig::key("q:a");
    let _: redis::Value = rig.admin(&["XREADGROUP", "GROUP", "es", name, "COUNT", "1", "STREAMS", &lane_key, ">"]);
    let hb = RedisRig::key("hb");
    let () = rig.admin(&["HSET", &hb, &format!("c:{name}"), "7", &format!("i:{name}"), identity]);
}

/// The identity that the broker wrote for itself, in the name of another process id.
fn identity_of(rig: &RedisRig, broker: &RedisBroker, pid: &str) -> String {
    let identity: String = rig.admin(&["HGET", &RedisRig::key("hb"), &format!("i:{}", broker.consumer())]);
    let mut words: Vec<&str> = identity.split(' ').collect();
    words[2] = pid;
    words.join(" ")
}

/// Thousands of suspects must not cost one scan of all pending entries each.
#[tokio::test]
async fn many_suspects_are_found_by_one_look() {
    let rig = RedisRig::new();
    let first = rig.direct(short_lease()).await;
    for name in ["a", "b", "c", "d"] {
        first.append(appends(name, 25)).await.unwrap();
        assert_eq!(claim(&*first, name, 25).await.len(), 25);
    }
    drop(first);
    let broker = rig.direct(short_lease()).await;
    let asked = || -> u64 {
        let stats: String = rig.admin(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xpending:calls=")).unwrap_or("0,");
        line.split(',').next().unwrap().parse().unwrap()
    };
    tokio::time::sleep(Duration::from_millis(2 * SHORT_LEASE_MS)).await;
    let before = asked();
    for _ in 0..50 {
        eventually("one is recovered", || async { broker.recover(1).await.unwrap().pop() }).await;
    }
    let asked = asked() - before;
    assert!(asked < 50 * 4, "{asked} questions for 50 of 4 lanes");
}

#[tokio::test]
async fn a_restarted_host_takes_its_own_back_at_once() {
    let rig = RedisRig::new();
    let first = rig.direct(options()).await;
    first.append(appends("a", 2)).await.unwrap();
    // No process has an id as large as this one.
    let gone = identity_of(&rig, &first, "4194999");
    let alive = identity_of(&rig, &first, &std::process::id().to_string());
    plant_consumer(&rig, "gone-host", &gone);
    plant_consumer(&rig, "living-host", &alive);
    drop(first);
    let broker = rig.direct(options()).await;
    let recovered = broker.recover(9).await.unwrap();
    assert_eq!(recovered.len(), 1, "the lease is 30 s, and only one of them is known to be gone");
    assert_eq!(recovered[0].deliveries, 2);
    broker.maintain().await.unwrap();
    let known: Vec<String> = rig.admin(&["HKEYS", &RedisRig::key("hb")]);
    assert!(!known.iter().any(|field| field.contains("gone-host")), "it holds nothing and is forgotten: {known:?}");
    assert!(known.iter().any(|field| field.contains("living-host")));
}

#[tokio::test]
async fn the_dead_are_forgotten_when_they_hold_nothing() {
    let rig = RedisRig::new();
    for _ in 0..30 {
        let broker = rig.direct(short_lease()).await;
        assert!(claim(&*broker, "a", 1).await.is_empty());
    }
    let broker = rig.direct(short_lease()).await;
    let held = deliver_one(&*broker, "a").await;
    eventually("only the living one is left", || async {
        broker.maintain().await.unwrap();
        (broker.stats().await.unwrap().depth.consumers == 1).then_some(())
    })
    .await;
    let consumers: Vec<redis::Value> = rig.admin(&["XINFO", "CONSUMERS", &RedisRig::key("q:a"), "es"]);
    assert_eq!(consumers.len(), 1);
    assert_eq!(settle_one(&*broker, &held, Settlement::Processed).await, SettleOutcome::Done);
}

#[tokio::test]
async fn each_host_counts_the_others_from_its_start_on() {
    let rig = RedisRig::new();
    let first = rig.direct(options()).await;
    assert_eq!(first.live_consumers(), 1);
    let second = rig.direct(options()).await;
    assert_eq!(second.live_consumers(), 2);
    first.maintain().await.unwrap();
    assert_eq!(first.live_consumers(), 2, "the start of another host is noticed by the next heartbeat");
}

#[tokio::test]
async fn lanes_of_another_host_are_seen_and_count() {
    let rig = RedisRig::new();
    let first = rig.direct(BrokerOptions { max_waiting: 3, ..options() }).await;
    let second = rig.direct(BrokerOptions { max_waiting: 3, ..options() }).await;
    for broker in [&first, &second] {
        broker.limit_lanes(["new", "a"].map(|name| (lane(name), 3)).into());
    }
    second.append(appends("new", 3)).await.unwrap();
    let full = first.append(appends("a", 1)).await;
    assert!(matches!(full, Err(eventstream::broker::Error::Full { waiting: 3, .. })), "{full:?}");
    assert!(first.lanes().contains(&lane("new")));
    assert_eq!(claim(&*first, "new", 9).await.len(), 3);
}

#[tokio::test]
async fn a_store_that_did_not_count_by_lane_and_plugin_is_served_and_counts_from_then_on() {
    let rig = RedisRig::new();
    let retention = RetentionLimits { processed_max: 10, ..BrokerOptions::default().retention };
    let broker = rig.direct(BrokerOptions { retention, max_waiting: 40, ..options() }).await;
    let mut later = appends("a", 2);
    later.iter_mut().for_each(|append| append.start = DeliveryStart::InMs(1));
    broker.append(later).await.unwrap();
    let end_one = async |name: &str, state: Option<StateChanges>| {
        let delivery = deliver_one(&*broker, name).await;
        let done = SettleRequest { state, ..settle(&delivery, Settlement::Processed, Vec::new()) };
        assert_eq!(broker.settle(vec![done]).await.unwrap(), [SettleOutcome::Done]);
        delivery.receipt.event_id
    };
    let set = |key: &str, size_bytes: usize| {
        let write = StateWrite::Set { value: vec![b'x'; size_bytes].into(), ttl_ms: None };
        Some(StateChanges { plugin: "p".into(), expected: Vec::new(), writes: vec![(key.into(), write)] })
    };
    for n in 0..8 {
        end_one("old", set(&n.to_string(), 1_000)).await;
    }
    let counts = RedisRig::key("counts");
    for field in ["due:a", "bytes:a", "bytes:old", "kept:old", "kept-bytes:old", "state-bytes:p"] {
        let _: i64 = rig.admin(&["HDEL", &counts, field]);
    }
    eventually("what is due comes", || async {
        promote_all(&*broker).await;
        (claim(&*broker, "a", 2).await.len() == 2).then_some(())
    })
    .await;
    assert_eq!(broker.stats().await.unwrap().depth.waiting_by_lane.get("a"), Some(&2));
    let mut newest = Vec::new();
    for n in 0..6 {
        newest.push(end_one("new", set(&format!("new {n}"), 10)).await);
    }
    while broker.maintain().await.unwrap() {}
    let kept: Vec<_> = all_ended(&*broker, EndKind::Processed).await.iter().map(|record| record.event.id).collect();
    assert_eq!(kept.len(), 10, "the oldest went first, since they count for nobody");
    assert!(newest.iter().all(|id| kept.contains(id)), "{kept:?}");
    let taken = broker.read_plugin_state("p", "0").await.unwrap().size_bytes;
    assert!((8_000..11_000).contains(&taken), "{taken}");
}

/// A rig on which every broker is a mutant.
struct MutantRig(RedisRig, BrokerMutant);

#[async_trait]
impl BrokerRig for MutantRig {
    async fn open(&self, options: BrokerOptions) -> Arc<dyn Broker> {
        self.0.mutant(options, self.1).await
    }

    async fn kill(&self, broker: Arc<dyn Broker>) {
        drop(broker);
    }

    async fn damage(&self, id: EventId) {
        self.0.damage(id).await;
    }
}

/// What every broker must do when the answer to its first step is lost. True if it did.
async fn survives_a_lost_first_answer(rig: &RedisRig, broker: &dyn Broker) -> bool {
    // Everything is done once before: scripts are known then, and lanes exist.
    let delivery = deliver_one(broker, "a").await;
    broker.settle(vec![settle(&delivery, Settlement::Processed, appends("children", 1))]).await.unwrap();
    assert_eq!(claim(broker, "children", 9).await.len(), 1);
    let mut later = appends("a", 1);
    later[0].start = DeliveryStart::InMs(1);
    broker.append(later).await.unwrap();
    eventually("it is due", || async { (promote_all(broker).await == 1).then_some(()) }).await;
    assert_eq!(claim(broker, "a", 9).await.len(), 1);

    let delivery = deliver_one(broker, "a").await;
    let id = delivery.record.event.id;
    let publish = appends("children", 1);
    let batch = vec![settle(&delivery, Settlement::Processed, publish)];
    rig.proxy.drop_reply_to("EVALSHA", 1);
    let _ = broker.settle(batch.clone()).await;
    let _ = broker.settle(batch).await;
    let children = claim(broker, "children", 9).await.len();
    let is_settled = state(broker, id).await == Some(EventState::Processed) && children == 1;

    let mut later = appends("a", 1);
    later[0].start = DeliveryStart::InMs(1);
    let later_id = broker.append(later).await.unwrap()[0].id;
    tokio::time::sleep(Duration::from_millis(20)).await;
    rig.proxy.drop_reply_to("EVALSHA", 1);
    let _ = broker.promote().await;
    let _ = broker.promote().await;
    let is_promoted = claim(broker, "a", 9).await.iter().any(|delivery| delivery.record.event.id == later_id);
    is_settled && is_promoted
}

#[tokio::test]
async fn mutants_are_noticed() {
    let rig = RedisRig::new();
    let sound = rig.through_proxy(options()).await;
    assert!(survives_a_lost_first_answer(&rig, &*sound).await, "the broker itself must pass");
    for mutant in [BrokerMutant::AckFirst, BrokerMutant::PublishApart, BrokerMutant::PromoteRemovesFirst] {
        let mut is_noticed = false;
        // The answer that is dropped may be one to the broker's own look at the store.
        for _ in 0..3 {
            let rig = RedisRig::new();
            let broker = rig.mutant(options(), mutant).await;
            is_noticed |= !survives_a_lost_first_answer(&rig, &*broker).await;
        }
        assert!(is_noticed, "{mutant:?} must be noticed");
    }
}

#[tokio::test]
async fn mutants_fail_their_cases() {
    let stale = MutantRig(RedisRig::new(), BrokerMutant::NoFence);
    let ended = AssertUnwindSafe(leases::a_stale_receipt_changes_nothing(&stale)).catch_unwind().await;
    assert!(ended.is_err(), "a broker without a fence fails its case");
    let late = MutantRig(RedisRig::new(), BrokerMutant::GroupAtEnd);
    let ended = AssertUnwindSafe(accept::an_accepted_event_survives_a_crash(&late)).catch_unwind().await;
    assert!(ended.is_err(), "a group that begins at the end fails its case");
}
