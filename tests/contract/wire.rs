//! Network faults between the host and Redis: lost answers, cut connections, and a connection on which nothing passes.

use std::time::{Duration, Instant};

use eventstream::broker::contract::*;
use eventstream::broker::redis::RedisBroker;
use eventstream::broker::{BrokerOptions, Error, SettleOutcome};
use eventstream::event::{EventState, FailureClass, Settlement};

use crate::rig::RedisRig;

fn lose_answer(rig: &RedisRig, broker: &RedisBroker, script: &str) {
    rig.proxy.drop_reply_to(broker.script_digest(script).expect("there is such a script"), 1);
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_appends_once() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    broker.append(appends("a", 1)).await.unwrap();
    let mut events = appends("a", 3);
    events[1].idempotency = idempotency(1, 1);
    lose_answer(&rig, &broker, "append");
    let accepted = broker.append(events).await.unwrap();
    assert_eq!(rig.proxy.answers_lost(), 1);
    assert!(accepted.iter().all(|accepted| !accepted.duplicate), "our own repetition is no duplicate");
    assert_eq!(claim(&*broker, "a", 9).await.len(), 4);
    let counters = broker.stats().await.unwrap().counters;
    assert_eq!((counters.accepted, counters.duplicates), (4, 0));
}

#[tokio::test]
async fn an_append_is_in_doubt_only_when_it_may_have_happened() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    broker.append(appends("a", 1)).await.unwrap();
    let mut events = appends("a", 1);
    events[0].idempotency = idempotency(1, 1);
    lose_answer(&rig, &broker, "append");
    let appending = broker.append(events.clone());
    let cutting = async {
        eventually("the answer is lost", || async { (rig.proxy.answers_lost() == 1).then_some(()) }).await;
        rig.proxy.cut();
    };
    let (answer, ()) = futures_util::future::join(appending, cutting).await;
    // The repetition may have been faster than the cut.
    match answer {
        Ok(_) => {}
        Err(error) => assert!(matches!(error, Error::Unavailable { outcome_known: false, .. }), "{error:?}"),
    }
    let refused = eventually("nothing is in doubt without a connection", || async {
        match broker.append(appends("a", 1)).await {
            Err(Error::Unavailable { outcome_known: true, reason }) => Some(reason),
            _ => None,
        }
    })
    .await;
    assert!(refused.contains("127.0.0.1"), "{refused}");
    rig.proxy.restore();
    let id = events[0].record.event.id;
    events[0].record = appends("a", 1).remove(0).record;
    let again =
        eventually("the sender's repetition is answered", || async { broker.append(events.clone()).await.ok() }).await;
    assert_eq!((again[0].id, again[0].duplicate), (id, true));
}

#[tokio::test]
async fn a_settle_whose_answer_was_lost_takes_effect_once() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    for settlement in [Settlement::Processed, retry(60_000), failed(FailureClass::Trap), Settlement::Returned] {
        let delivery = deliver_one(&*broker, "a").await;
        let publish = if settlement == Settlement::Processed { appends("children", 2) } else { Vec::new() };
        let before = rig.proxy.answers_lost();
        lose_answer(&rig, &broker, "settle");
        let settled = broker.settle(vec![settle(&delivery, settlement, publish)]).await;
        assert_eq!(settled, Ok(vec![SettleOutcome::Done]));
        assert_eq!(rig.proxy.answers_lost(), before + 1);
    }
    let counters = broker.stats().await.unwrap().counters;
    assert_eq!((counters.processed, counters.retried, counters.failed, counters.published), (1, 1, 1, 2));
    assert_eq!(claim(&*broker, "children", 9).await.len(), 2);
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_found_again() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(BrokerOptions { lease_ms: 600_000, ..options() }).await;
    let ids: Vec<_> = broker.append(appends("a", 3)).await.unwrap().iter().map(|accepted| accepted.id).collect();
    assert!(claim(&*broker, "b", 1).await.is_empty());
    lose_answer(&rig, &broker, "claim");
    let lanes = vec![eventstream::broker::LaneDemand { lane: lane("a"), free: 2 }];
    let lost = broker.claim(eventstream::broker::ClaimRequest { lanes, max: 2 }).await;
    assert!(matches!(lost, Err(Error::Unavailable { outcome_known: false, .. })), "{lost:?}");
    let held = claim(&*broker, "a", 9).await;
    assert_eq!(held.len(), 1, "two are pending, and nobody has heard of them");
    // The lease is ten minutes: only the reconciliation with what the server says can find them before this times out.
    let mut found = Vec::new();
    let began = Instant::now();
    while found.len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(120), "found {found:?}");
        found.extend(broker.recover(9).await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut found_ids: Vec<_> = found.iter().map(|delivery| delivery.record.event.id).collect();
    found_ids.sort();
    assert_eq!(found_ids, ids[..2]);
    assert!(found.iter().all(|delivery| delivery.deliveries == 1), "nobody was given them before");
    assert_eq!(broker.recover(9).await, Ok(Vec::new()), "what was handed out is left alone");
    for delivery in found.iter().chain(&held) {
        assert_eq!(settle_one(&*broker, delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    assert_eq!(broker.stats().await.unwrap().counters.recovered, 0, "nobody died");
}

#[tokio::test]
async fn a_claim_after_a_lost_answer_asks_for_half_as_much() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(BrokerOptions { lease_ms: 600_000, ..options() }).await;
    assert!(claim(&*broker, "a", 1).await.is_empty());
    broker.append(appends("a", 60)).await.unwrap();
    for asked in [16, 8] {
        lose_answer(&rig, &broker, "claim");
        let lanes = vec![eventstream::broker::LaneDemand { lane: lane("a"), free: 16 }];
        broker.claim(eventstream::broker::ClaimRequest { lanes, max: 16 }).await.unwrap_err();
        let pending: Vec<redis::Value> = rig.admin(&["XPENDING", &RedisRig::key("q:a"), "es"]);
        assert_eq!(pending[0], redis::Value::Int(if asked == 16 { 16 } else { 16 + 8 }));
    }
    assert_eq!(claim(&*broker, "a", 16).await.len(), 4);
    assert_eq!(claim(&*broker, "a", 16).await.len(), 5, "it grows back");
    let mut more = 0;
    while more < 60 - 24 - 9 {
        more += claim(&*broker, "a", 16).await.len();
    }
}

/// A batch of large results must not become one call of tens of megabytes, whose answer would come too late.
#[tokio::test]
async fn a_large_batch_is_settled_in_several_calls_and_answered_in_order() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    broker.append(appends("a", 30)).await.unwrap();
    let mut held = claim(&*broker, "a", 30).await;
    let stale = eventstream::broker::Receipt { deliveries: 7, ..held[17].receipt.clone() };
    held[17].receipt = stale;
    let batch: Vec<_> = held
        .iter()
        .map(|delivery| {
            let mut settle = settle(delivery, Settlement::Processed, Vec::new());
            let end = settle.record.end.as_mut().unwrap();
            end.result = Some(eventstream::event::EventData::text(format!("\"{}\"", "x".repeat(250_000))));
            settle
        })
        .collect();
    let settled = broker.settle(batch).await.unwrap();
    let stats: String = rig.admin(&["INFO", "commandstats"]);
    // Each call acknowledges what it settles of a lane at once.
    assert!(stats.contains("cmdstat_xack:calls=4,"), "7.5 MB are four calls: {stats}");
    let lost = settled.iter().position(|settled| *settled == SettleOutcome::Lost);
    assert_eq!((settled.len(), lost), (30, Some(17)));
    assert_eq!(settled.iter().filter(|settled| **settled == SettleOutcome::Done).count(), 29);
}

#[tokio::test]
async fn answers_that_are_lost_are_no_deliveries() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(BrokerOptions { lease_ms: 600_000, ..options() }).await;
    let lose_claim = async || {
        broker.append(appends("a", 1)).await.unwrap();
        lose_answer(&rig, &broker, "claim");
        let lanes = vec![eventstream::broker::LaneDemand { lane: lane("a"), free: 1 }];
        broker.claim(eventstream::broker::ClaimRequest { lanes, max: 1 }).await.unwrap_err();
    };
    // Redis knows the scripts after the first call, so that the dropped answer is that of the script itself.
    assert_eq!(claim(&*broker, "a", 1).await.len(), 0);
    lose_claim().await;
    eventually("the first is found", || async { broker.recover(9).await.ok()?.pop() }).await;
    lose_claim().await;
    for lost in 3..=5 {
        lose_answer(&rig, &broker, "take_over");
        eventually("it is taken, and nobody hears of it", || async {
            assert!(broker.recover(9).await.unwrap_or_default().is_empty());
            (rig.proxy.answers_lost() == lost).then_some(())
        })
        .await;
    }
    let found = eventually("it is found", || async { broker.recover(9).await.ok()?.pop() }).await;
    assert_eq!((found.deliveries, found.attempt()), (1, 1));
    assert_eq!(broker.lease_renewal().renew(std::slice::from_ref(&found.receipt)).await, Ok(Vec::new()));
    assert_eq!(settle_one(&*broker, &found, Settlement::Processed).await, SettleOutcome::Done);
    assert_eq!(broker.stats().await.unwrap().counters.recovered, 0, "nobody died");
}

/// A claim puts entries aside that cannot be read. While it does so, the entries behind them must not be taken for those
/// of a lost answer, or they would be handled twice.
#[tokio::test]
async fn what_stands_behind_many_bad_entries_is_handed_out_once() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(BrokerOptions { lease_ms: 600_000, ..options() }).await;
    broker.append(appends("a", 1)).await.unwrap();
    assert_eq!(claim(&*broker, "a", 1).await.len(), 1);
    for n in 0..100 {
        let _: String = rig.admin(&["XADD", &RedisRig::key("q:a"), "*", "hello", &n.to_string()]);
    }
    let id = broker.append(appends("a", 1)).await.unwrap()[0].id;
    rig.proxy.delay(10);
    let (mut twice, mut claiming) = (Vec::new(), std::pin::pin!(claim(&*broker, "a", 200)));
    let claimed = loop {
        tokio::select! {
            claimed = &mut claiming => break claimed,
            () = tokio::time::sleep(Duration::from_millis(100)) => twice.extend(broker.recover(200).await.unwrap()),
        }
    };
    rig.proxy.delay(0);
    assert_eq!(claimed.iter().map(|delivery| delivery.record.event.id).collect::<Vec<_>>(), [id]);
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test]
async fn a_read_whose_answer_was_lost_is_found_again() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    broker.append(appends("a", 7)).await.unwrap();
    // If a claim got all that it asked for, the next one is a plain read.
    let held = claim(&*broker, "a", 2).await;
    assert_eq!(held.len(), 2);
    rig.proxy.drop_reply_to("xreadgroup", 1);
    let next = claim(&*broker, "a", 2).await;
    assert_eq!((rig.proxy.answers_lost(), next.len()), (1, 1), "the script was asked instead, for half as much");
    let mut rest = claim(&*broker, "a", 9).await;
    rest.extend(claim(&*broker, "a", 9).await);
    assert_eq!(rest.len(), 2);
    let found = eventually("the two that nobody has heard of are found", || async {
        let found = broker.recover(9).await.unwrap();
        (!found.is_empty()).then_some(found)
    })
    .await;
    let mut ids: Vec<_> = [held, next, rest, found].concat().iter().map(|it| it.record.event.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 7);
}

#[tokio::test]
async fn a_replay_whose_answer_was_lost_replays_once() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    settle_one(&*broker, &delivery, failed(FailureClass::Trap)).await;
    lose_answer(&rig, &broker, "take_failed");
    let replayed = broker.replay(delivery.record.event.id, &lane("a"), None).await;
    assert_eq!(replayed, Ok(eventstream::broker::FailedEventChange::Done));
    assert_eq!(rig.proxy.answers_lost(), 1);
    assert_eq!(claim(&*broker, "a", 9).await.len(), 1);
    assert_eq!(broker.stats().await.unwrap().counters.replayed, 1);
}

#[tokio::test]
async fn a_discard_whose_answer_was_lost_discards_once() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    settle_one(&*broker, &delivery, failed(FailureClass::Trap)).await;
    lose_answer(&rig, &broker, "take_failed");
    let discarded = broker.discard(delivery.record.event.id, "tested", None).await;
    assert_eq!(discarded, Ok(eventstream::broker::FailedEventChange::Done));
    assert_eq!(rig.proxy.answers_lost(), 1);
    assert_eq!(broker.stats().await.unwrap().counters.discarded, 1);
}

#[tokio::test]
async fn without_redis_calls_fail_fast_and_connections_are_not_stormed() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    rig.proxy.cut();
    eventually("the trouble is shown", || async {
        let _ = broker.stats().await;
        broker.health().trouble
    })
    .await;
    let before = rig.proxy.connections();
    let leases = broker.lease_renewal();
    let mut calls = 0_u32;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert!(broker.append(appends("a", 1)).await.is_err());
        assert!(broker.settle(vec![settle(&delivery, Settlement::Processed, Vec::new())]).await.is_err());
        assert!(leases.renew(std::slice::from_ref(&delivery.receipt)).await.is_err());
        assert!(broker.maintain().await.is_err());
        assert!(broker.wait_for_work(&[lane("a")]).await.is_err());
        calls += 1;
    }
    let (connections, seconds) = (rig.proxy.connections() - before, began.elapsed().as_secs_f64());
    assert!((connections as f64) < 5.0 * seconds, "{connections} connections in {seconds} s");
    // Only the wait delays the loop, so this tells a busy loop from one that waits.
    assert!(f64::from(calls) < 33.0 * seconds, "{calls} rounds in {seconds} s");
    rig.proxy.restore();
    eventually("it recovers by itself", || async { broker.append(appends("a", 1)).await.ok() }).await;
    eventually("the trouble is over", || async { broker.health().ready().then_some(()) }).await;
    let settled = broker.settle(vec![settle(&delivery, Settlement::Processed, Vec::new())]).await;
    assert_eq!(settled, Ok(vec![SettleOutcome::Done]));
}

#[tokio::test]
async fn a_wire_on_which_nothing_passes_does_not_hold_calls_for_ever() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    broker.append(appends("a", 1)).await.unwrap();
    let events = appends("a", 1);
    let id = events[0].record.event.id;
    rig.proxy.freeze();
    let answer = tokio::time::timeout(Duration::from_secs(15), broker.append(events)).await.expect("an answer");
    assert!(matches!(answer, Err(Error::Unavailable { outcome_known: false, .. })), "{answer:?}");
    rig.proxy.thaw();
    eventually("it recovers by itself", || async { broker.append(appends("a", 1)).await.ok() }).await;
    let waiting = claim(&*broker, "a", 9).await;
    let times = waiting.iter().filter(|delivery| delivery.record.event.id == id).count();
    assert!(times <= 1, "what was in doubt was appended at most once");
}

#[tokio::test]
async fn cut_connections_lose_and_double_nothing() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    let mut accepted = Vec::new();
    let mut processed = 0;
    for round in 0..40 {
        if round % 4 == 3 {
            rig.proxy.cut_once();
        }
        if let Ok(answers) = broker.append(appends("a", 5)).await {
            accepted.extend(answers.iter().map(|accepted| accepted.id));
        }
        let lanes = vec![eventstream::broker::LaneDemand { lane: lane("a"), free: 4 }];
        let mut deliveries =
            broker.claim(eventstream::broker::ClaimRequest { lanes, max: 4 }).await.unwrap_or_default();
        deliveries.extend(broker.recover(9).await.unwrap_or_default());
        let batch: Vec<_> = deliveries.iter().map(|d| settle(d, Settlement::Processed, Vec::new())).collect();
        let settled = eventually("the settle is answered", || async { broker.settle(batch.clone()).await.ok() }).await;
        processed += settled.iter().filter(|settled| **settled == SettleOutcome::Done).count();
    }
    let began = Instant::now();
    while broker.stats().await.map_or(1, |stats| stats.depth.waiting()) > 0 {
        assert!(began.elapsed() < Duration::from_secs(120), "everything is worked off");
        let mut deliveries = claim(&*broker, "a", 50).await;
        deliveries.extend(broker.recover(50).await.unwrap());
        for delivery in &deliveries {
            processed +=
                usize::from(settle_one(&*broker, delivery, Settlement::Processed).await == SettleOutcome::Done);
        }
    }
    for id in &accepted {
        assert_eq!(state(&*broker, *id).await, Some(EventState::Processed));
    }
    let counters = broker.stats().await.unwrap().counters;
    assert_eq!(counters.processed, processed as u64);
    assert_eq!(counters.accepted, counters.processed);
    assert!(counters.accepted >= accepted.len() as u64);
}
