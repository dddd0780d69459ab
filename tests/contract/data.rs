//! What other clients may do to the data: flush it, replace it, delete from it, or add to it.

use std::time::Duration;

use eventstream::broker::contract::*;
use eventstream::broker::{EndKind, Error, SettleOutcome};
use eventstream::event::{DeliveryStart, EventState, FailureClass, Settlement};
use futures_util::future::join_all;

use crate::rig::RedisRig;

#[tokio::test]
async fn a_flush_is_noticed_counted_once_and_survived() {
    let rig = RedisRig::new();
    let brokers = [rig.direct(options()).await, rig.direct(options()).await];
    let delivery = deliver_one(&*brokers[0], "a").await;
    let () = rig.admin(&["FLUSHALL"]);
    // By both at once, since it is shown only for a while.
    let shown = brokers.iter().map(|broker| {
        eventually("the loss is shown", move || async move {
            broker.health().trouble.filter(|trouble| trouble.contains("lost"))
        })
    });
    join_all(shown).await;
    for broker in &brokers {
        eventually("it goes on", || async { broker.append(appends("a", 1)).await.ok() }).await;
        eventually("the trouble is over", || async { broker.health().ready().then_some(()) }).await;
        assert_eq!(broker.stats().await.unwrap().counters.data_losses, 1);
    }
    assert_eq!(settle_one(&*brokers[0], &delivery, Settlement::Processed).await, SettleOutcome::Lost);
    assert_eq!(claim(&*brokers[1], "a", 9).await.len(), 2);
}

#[tokio::test]
async fn an_append_into_a_flushed_store_is_refused_until_the_loss_is_noted() {
    let rig = RedisRig::new();
    let tasks = eventstream::shutdown::TaskGroup::new();
    // With the usual period only the append itself can notice the loss in time.
    let url = rig.server.url();
    let broker = eventstream::broker::redis::RedisBroker::open(&url, options(), &tasks).await.unwrap();
    broker.append(appends("a", 1)).await.unwrap();
    let () = rig.admin(&["FLUSHALL"]);
    assert!(matches!(broker.append(appends("a", 1)).await, Err(Error::Unsafe(_))));
    eventually("it goes on", || async { broker.append(appends("a", 1)).await.ok() }).await;
    assert_eq!(broker.stats().await.unwrap().counters.data_losses, 1);
    assert_eq!(claim(&*broker, "a", 9).await.len(), 1);
}

#[tokio::test]
async fn a_lane_whose_group_was_destroyed_is_read_though_much_waits_in_another() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.append(appends("busy", 40)).await.unwrap();
    broker.append(appends("other", 1)).await.unwrap();
    let claim_both = async || {
        let lanes = ["busy", "other"].map(|name| eventstream::broker::LaneDemand { lane: lane(name), free: 2 });
        broker.claim(eventstream::broker::ClaimRequest { lanes: lanes.to_vec(), max: 9 }).await.unwrap()
    };
    assert_eq!(claim_both().await.len(), 3);
    broker.append(appends("other", 1)).await.unwrap();
    let () = rig.admin(&["XGROUP", "DESTROY", &RedisRig::key("q:other"), "es"]);
    let mut others = 0;
    for _ in 0..2 {
        others += claim_both().await.iter().filter(|delivery| delivery.receipt.lane == lane("other")).count();
    }
    assert_eq!(others, 2, "the lane begins anew, behind a lane that is never empty");
}

#[tokio::test]
async fn an_older_copy_is_noticed() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.append(appends("a", 5)).await.unwrap();
    // This is what the broker sees after a failover to a lagging replica, or after a restored backup.
    let () = rig.admin(&["HSET", &RedisRig::key("counts"), "accepted", "3"]);
    eventually("the loss is shown", || async { broker.health().trouble }).await;
    eventually("the trouble is over", || async { broker.health().ready().then_some(()) }).await;
    assert_eq!(broker.stats().await.unwrap().counters.data_losses, 1);
    broker.append(appends("a", 1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(broker.stats().await.unwrap().counters.data_losses, 1, "one loss is counted once");
}

#[tokio::test]
async fn a_destroyed_group_begins_anew_at_its_first_entry() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let accepted = broker.append(appends("a", 100)).await.unwrap();
    let held = claim(&*broker, "a", 30).await;
    let lane_key = RedisRig::key("q:a");
    let () = rig.admin(&["XGROUP", "DESTROY", &lane_key, "es"]);
    assert_eq!(settle_one(&*broker, &held[0], Settlement::Processed).await, SettleOutcome::Lost);
    broker.wait_for_work(&[lane("a")]).await.expect("the wait ends");
    let again = claim(&*broker, "a", 200).await;
    assert_eq!(again.len(), 100, "those that were held as well");
    for delivery in &again {
        assert_eq!(settle_one(&*broker, delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    for accepted in accepted {
        assert_eq!(state(&*broker, accepted.id).await, Some(EventState::Processed));
    }
    assert_eq!(broker.stats().await.unwrap().counters.processed, 100);
    assert_eq!(rig.admin::<u64>(&["XLEN", &lane_key]), 0);
}

#[tokio::test]
async fn a_deleted_lane_does_not_stop_anything() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.append(appends("a", 2)).await.unwrap();
    broker.append(appends("b", 2)).await.unwrap();
    let () = rig.admin(&["DEL", &RedisRig::key("q:a")]);
    broker.append(appends("a", 1)).await.unwrap();
    assert_eq!(claim(&*broker, "a", 9).await.len(), 1);
    assert_eq!(claim(&*broker, "b", 9).await.len(), 2);
}

/// A key with something else in it, and settlements that need the key.
async fn nothing_is_lost_when(rig: &RedisRig, key: &str, settlement: Settlement, publish: bool) {
    let broker = rig.direct(options()).await;
    let children = || {
        let mut children = appends("children", if publish { 2 } else { 0 });
        if let Some(child) = children.first_mut() {
            child.start = DeliveryStart::InMs(60_000);
        }
        children
    };
    let delivery = deliver_one(&*broker, "a").await;
    let key = RedisRig::key(key);
    let aside = format!("{key}:aside");
    let had: bool = rig.admin(&["EXISTS", &key]);
    if had {
        let () = rig.admin(&["RENAME", &key, &aside]);
    }
    let () = rig.admin(&["SET", &key, "something else"]);
    let before: Vec<u64> = ["q:a", "q:children"].map(|key| rig.admin(&["XLEN", &RedisRig::key(key)])).into();
    let batch = vec![settle(&delivery, settlement, children())];
    let refused = broker.settle(batch.clone()).await;
    assert!(matches!(refused, Err(Error::Misconfigured(_))), "{key}: {refused:?}");
    eventually("the trouble is shown", || async { broker.health().trouble.filter(|t| t.contains(&key)) }).await;
    let after: Vec<u64> = ["q:a", "q:children"].map(|key| rig.admin(&["XLEN", &RedisRig::key(key)])).into();
    assert_eq!(after, before, "{key}: nothing was half-done");
    let pending: Vec<redis::Value> = rig.admin(&["XPENDING", &RedisRig::key("q:a"), "es"]);
    assert_eq!(pending[0], redis::Value::Int(1), "{key}: it is still ours");

    let () = rig.admin(&["DEL", &key]);
    if had {
        let () = rig.admin(&["RENAME", &aside, &key]);
    }
    assert_eq!(broker.settle(batch).await, Ok(vec![SettleOutcome::Done]), "{key}");
    eventually("the trouble is over", || async { broker.health().ready().then_some(()) }).await;
    let _ = broker.close().await;
}

#[tokio::test]
async fn something_else_in_a_destination_loses_nothing() {
    let rig = RedisRig::new();
    let _lanes = rig.direct(options()).await.append(appends("children", 1)).await;
    for (key, settlement, publish) in [
        ("done", Settlement::Processed, true),
        ("failed", failed(FailureClass::Trap), false),
        ("due", retry(60_000), false),
        ("due", Settlement::Processed, true),
        ("parked", retry(60_000), false),
        ("parked", Settlement::Processed, true),
        ("ix", Settlement::Processed, true),
        ("counts", Settlement::Processed, true),
    ] {
        nothing_is_lost_when(&rig, key, settlement, publish).await;
    }
}

#[tokio::test]
async fn something_else_in_a_lane_of_children_loses_nothing() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    assert!(claim(&*broker, "children", 1).await.is_empty());
    let delivery = deliver_one(&*broker, "a").await;
    let () = rig.admin(&["SET", &RedisRig::key("q:children"), "something else"]);
    let batch = vec![settle(&delivery, Settlement::Processed, appends("children", 2))];
    assert!(matches!(broker.settle(batch.clone()).await, Err(Error::Misconfigured(_))));
    assert_eq!(rig.admin::<u64>(&["XLEN", &RedisRig::key("done")]), 0);
    let () = rig.admin(&["DEL", &RedisRig::key("q:children")]);
    assert_eq!(broker.settle(batch).await, Ok(vec![SettleOutcome::Done]));
    assert_eq!(claim(&*broker, "children", 9).await.len(), 2);
}

#[tokio::test]
async fn a_bad_idempotency_key_keeps_out_only_its_own_request() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let () = rig.admin(&["LPUSH", &RedisRig::key(&format!("idem:{}", "07".repeat(32))), "something else"]);
    let requests: Vec<_> = (0..20)
        .map(|n: u8| {
            let mut events = appends("a", 1);
            events[0].idempotency = idempotency(n, 1);
            events
        })
        .collect();
    let answers = futures_util::future::join_all(requests.into_iter().map(|events| broker.append(events))).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_ok(), n != 7, "request {n}: {answer:?}");
    }
    assert_eq!(claim(&*broker, "a", 50).await.len(), 19);
}

#[tokio::test]
async fn a_bad_destination_holds_up_only_those_that_need_it() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.append(appends("a", 3)).await.unwrap();
    let held = claim(&*broker, "a", 3).await;
    let () = rig.admin(&["SET", &RedisRig::key("failed"), "something else"]);
    let batch = vec![
        settle(&held[0], Settlement::Processed, Vec::new()),
        settle(&held[1], failed(FailureClass::Trap), Vec::new()),
        settle(&held[2], retry(60_000), Vec::new()),
    ];
    assert!(matches!(broker.settle(batch.clone()).await, Err(Error::Misconfigured(_))));
    let states: Vec<_> = [
        state(&*broker, held[0].record.event.id).await,
        state(&*broker, held[1].record.event.id).await,
        state(&*broker, held[2].record.event.id).await,
    ]
    .into();
    assert_eq!(states, [Some(EventState::Processed), Some(EventState::Running), Some(EventState::Retrying)]);
    let () = rig.admin(&["DEL", &RedisRig::key("failed")]);
    assert_eq!(broker.settle(batch).await, Ok(vec![SettleOutcome::Done; 3]));
    let counters = broker.stats().await.unwrap().counters;
    assert_eq!((counters.processed, counters.failed, counters.retried), (1, 1, 1));
}

#[tokio::test]
async fn a_lane_that_is_no_stream_does_not_hold_up_the_others() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.append(appends("good", 1)).await.unwrap();
    let () = rig.admin(&["DEL", &RedisRig::key("q:bad")]);
    let () = rig.admin(&["SADD", &RedisRig::key("lanes"), "bad"]);
    assert!(claim(&*broker, "bad", 1).await.is_empty());
    let () = rig.admin(&["DEL", &RedisRig::key("q:bad")]);
    let () = rig.admin(&["SET", &RedisRig::key("q:bad"), "something else"]);
    let lanes = ["bad", "good"].map(|name| eventstream::broker::LaneDemand { lane: lane(name), free: 5 });
    let claim = eventstream::broker::ClaimRequest { lanes: lanes.into(), max: 10 };
    assert_eq!(broker.claim(claim).await.unwrap().len(), 1);
    assert!(broker.health().trouble.is_some_and(|trouble| trouble.contains("WRONGTYPE") || trouble.contains("q:bad")));
}

#[tokio::test]
async fn an_entry_deleted_while_pending_is_never_dispatched() {
    let rig = RedisRig::new();
    let first = rig.direct(short_lease()).await;
    first.append(appends("a", 3)).await.unwrap();
    let held = claim(&*first, "a", 3).await;
    drop(first);
    let broker = rig.direct(short_lease()).await;
    let () = rig.admin(&["XDEL", &RedisRig::key("q:a"), &held[1].receipt.entry]);
    let mut recovered = Vec::new();
    eventually("nothing is pending for the dead", || {
        let broker = &broker;
        let rig = &rig;
        async move {
            let some = broker.recover(9).await.unwrap();
            let pending: Vec<redis::Value> = rig.admin(&["XPENDING", &RedisRig::key("q:a"), "es"]);
            (pending[0] == redis::Value::Int(2) || !some.is_empty()).then_some(some)
        }
    })
    .await
    .into_iter()
    .for_each(|delivery| recovered.push(delivery.record.event.id));
    assert!(recovered.iter().all(|id| *id != held[1].record.event.id));
    eventually("the ghost is gone", || async {
        broker.recover(9).await.unwrap();
        let pending: Vec<redis::Value> = rig.admin(&["XPENDING", &RedisRig::key("q:a"), "es"]);
        (pending[0] == redis::Value::Int(2)).then_some(())
    })
    .await;
    assert_eq!(broker.find_event(held[1].record.event.id).await, Ok(None));
}

#[tokio::test]
async fn a_foreign_entry_is_kept_as_failed_and_holds_up_nobody() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.append(appends("a", 1)).await.unwrap();
    let lane_key = RedisRig::key("q:a");
    let _: String = rig.admin(&["XADD", &lane_key, "*", "hello", "world", "hello", "again"]);
    let _: String = rig.admin(&["XADD", &lane_key, "*", "id", "x", "b", "{\"type\":\"x\"}"]);
    broker.append(appends("a", 1)).await.unwrap();
    assert_eq!(claim(&*broker, "a", 9).await.len(), 2);
    let kept = all_ended(&*broker, EndKind::Failed).await;
    assert_eq!(kept.len(), 2);
    let first = &kept[1];
    assert_eq!(first.event.event_type.as_str(), "bad-entry");
    let data = first.event.data.as_ref().and_then(|data| data.as_text());
    assert_eq!(data, Some(r#"[["hello","world"],["hello","again"]]"#));
    assert_eq!(state(&*broker, first.event.id).await, Some(EventState::Failed));
    let counters = broker.stats().await.unwrap().counters;
    assert_eq!((counters.failed, counters.failed_by_class[&FailureClass::BadEntry]), (2, 2));
    assert_eq!(broker.stats().await.unwrap().depth.running, 2);
}

#[tokio::test]
async fn a_damaged_entry_of_ours_keeps_its_id() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let id = broker.append(appends("a", 1)).await.unwrap()[0].id;
    let lane_key = RedisRig::key("q:a");
    let entry: String = rig.admin(&["XADD", &lane_key, "*", "id", &id.to_string(), "b", "damaged"]);
    let () = rig.admin(&["HSET", &RedisRig::key("ix"), &id.to_string(), &format!("q|a|{entry}|")]);
    assert_eq!(claim(&*broker, "a", 9).await.len(), 1, "the undamaged one is handed out");
    assert_eq!(state(&*broker, id).await, Some(EventState::Failed));
}

#[tokio::test]
async fn an_entry_of_a_newer_version_is_left_for_a_host_that_can_read_it() {
    let rig = RedisRig::new();
    let broker = rig.direct(short_lease()).await;
    assert!(claim(&*broker, "a", 1).await.is_empty());
    let _: String = rig.admin(&["XADD", &RedisRig::key("q:a"), "*", "id", "x", "b", "\u{2}new"]);
    assert!(claim(&*broker, "a", 1).await.is_empty());
    tokio::time::sleep(Duration::from_millis(2 * SHORT_LEASE_MS)).await;
    assert_eq!(broker.recover(9).await, Ok(Vec::new()));
    for _ in 0..3 {
        // Others that cannot read it either.
        let another = rig.direct(short_lease()).await;
        eventually("its lease is over", || async {
            assert_eq!(another.recover(9).await, Ok(Vec::new()));
            let rows: Vec<(String, String, u64, u64)> =
                rig.admin(&["XPENDING", &RedisRig::key("q:a"), "es", "-", "+", "9"]);
            (rows[0].1 == another.consumer()).then_some(())
        })
        .await;
    }
    let rows: Vec<(String, String, u64, u64)> = rig.admin(&["XPENDING", &RedisRig::key("q:a"), "es", "-", "+", "9"]);
    assert_eq!((rows.len(), rows[0].3), (1, 0), "it is pending, and was delivered to nobody");
    assert_eq!(broker.stats().await.unwrap().counters.failed, 0);
}

#[tokio::test]
async fn a_due_time_without_an_event_is_dropped() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let () = rig.admin(&["ZADD", &RedisRig::key("due"), "1", "nobody"]);
    let mut events = appends("a", 1);
    events[0].start = DeliveryStart::InMs(1);
    broker.append(events).await.unwrap();
    eventually("the event is promoted", || async {
        promote_all(&*broker).await;
        claim(&*broker, "a", 1).await.pop()
    })
    .await;
    assert_eq!(rig.admin::<u64>(&["ZCARD", &RedisRig::key("due")]), 0);
}

#[tokio::test]
async fn an_event_whose_lane_is_gone_goes_to_the_unrouted_ones() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let mut events = appends("a", 1);
    events[0].start = DeliveryStart::InMs(1);
    let id = broker.append(events).await.unwrap()[0].id;
    let () = rig.admin(&["SREM", &RedisRig::key("lanes"), "a"]);
    drop(broker);
    let broker = rig.direct(options()).await;
    let delivery = eventually("the event is promoted", || async {
        promote_all(&*broker).await;
        claim(&*broker, "_", 1).await.pop()
    })
    .await;
    assert_eq!(delivery.record.event.id, id);
}
