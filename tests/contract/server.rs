//! Faults and settings of the server: memory full, scripts forgotten, demoted, stopped, killed, unsafe from the start.

use std::time::Duration;

use eventstream::broker::contract::*;
use eventstream::broker::redis::RedisOpenError;
use eventstream::broker::{BrokerOptions, Durability, Error, SettleOutcome};
use eventstream::event::{EventState, Settlement};

use crate::rig::RedisRig;

#[tokio::test]
async fn forgotten_scripts_are_sent_again() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let mut admin = rig.server.admin().unwrap();
    for _ in 0..100 {
        let delivery = deliver_one(&*broker, "a").await;
        let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut admin).unwrap();
        assert_eq!(broker.lease_renewal().renew(std::slice::from_ref(&delivery.receipt)).await, Ok(Vec::new()));
        assert_eq!(settle_one(&*broker, &delivery, retry(0)).await, SettleOutcome::Done);
        let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut admin).unwrap();
        assert_eq!(promote_all(&*broker).await, 1);
        let again = claim(&*broker, "a", 1).await.remove(0);
        let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut admin).unwrap();
        assert_eq!(settle_one(&*broker, &again, Settlement::Processed).await, SettleOutcome::Done);
    }
    assert!(broker.health().ready());
}

#[tokio::test]
async fn a_full_memory_refuses_events_and_lets_the_work_drain() {
    let rig = RedisRig::new();
    let broker = rig.direct(short_lease()).await;
    broker.append(appends("a", 40)).await.unwrap();
    let held = claim(&*broker, "a", 20).await;
    for delivery in &held[..10] {
        assert_eq!(settle_one(&*broker, delivery, retry(1)).await, SettleOutcome::Done);
    }
    let () = rig.admin(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = broker.append(appends("a", 1)).await;
    assert!(matches!(refused, Err(Error::NoRoom(_))), "{refused:?}");
    let leases = broker.lease_renewal();
    let receipts: Vec<_> = held[10..].iter().map(|delivery| delivery.receipt.clone()).collect();
    assert_eq!(leases.renew(&receipts).await, Ok(Vec::new()));
    for delivery in &held[10..15] {
        let children = appends("new-lane", 1);
        let settled = broker.settle(vec![settle(delivery, Settlement::Processed, children)]).await;
        assert_eq!(settled, Ok(vec![SettleOutcome::Done]));
    }
    let mut processed = 5;
    let began = std::time::Instant::now();
    while processed < 45 {
        assert!(began.elapsed() < Duration::from_secs(120), "{processed} of 45 were processed");
        promote_all(&*broker).await;
        let mut deliveries = claim(&*broker, "a", 50).await;
        deliveries.extend(claim(&*broker, "new-lane", 50).await);
        deliveries.extend(broker.recover(50).await.unwrap());
        for delivery in &deliveries {
            processed +=
                usize::from(settle_one(&*broker, delivery, Settlement::Processed).await == SettleOutcome::Done);
        }
        broker.maintain().await.unwrap();
    }
    assert!(matches!(broker.append(appends("a", 1)).await, Err(Error::NoRoom(_))));
    let () = rig.admin(&["CONFIG", "SET", "maxmemory", "0"]);
    broker.append(appends("a", 1)).await.expect("there is room again");
    assert_eq!(broker.stats().await.unwrap().counters.processed, 45);
}

#[tokio::test]
async fn a_demoted_server_is_left_and_found_again_when_promoted() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    let before = rig.proxy.connections();
    let () = rig.admin(&["REPLICAOF", "127.0.0.1", "1"]);
    let refused = broker.append(appends("a", 1)).await;
    assert!(matches!(refused, Err(Error::Unavailable { outcome_known: true, .. })), "{refused:?}");
    eventually("the role is noticed", || async {
        let _ = broker.append(appends("a", 1)).await;
        broker.health().trouble.filter(|trouble| trouble.contains("replica") || trouble.contains("READONLY"))
    })
    .await;
    let () = rig.admin(&["REPLICAOF", "NO", "ONE"]);
    eventually("it recovers by itself", || async { broker.append(appends("a", 1)).await.ok() }).await;
    eventually("the trouble is over", || async { broker.health().ready().then_some(()) }).await;
    assert!(rig.proxy.connections() > before, "a new connection was made");
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
}

/// While it reads its log, Redis says that it keeps none.
#[test]
fn a_server_that_still_loads_is_waited_for_and_not_judged() {
    let rig = RedisRig::with(&["--key-load-delay", "400"]);
    let () = rig.admin(&["EVAL", "for i = 1, 6000 do redis.call('SET', 'filler:' .. i, i) end", "0"]);
    rig.server.kill9();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refusals = std::thread::scope(|scope| {
        let restarted = scope.spawn(|| rig.server.restart());
        let mut refusals = Vec::new();
        while let Err(refusal) = runtime.block_on(rig.try_open(&rig.server.url(), options())) {
            refusals.push(refusal);
            assert!(refusals.len() < 100_000, "it never loads: {:?}", refusals.last());
        }
        restarted.join().unwrap().unwrap();
        refusals
    });
    assert!(!refusals.is_empty(), "the server was asked while it was away or loading");
    for refusal in refusals {
        let is_passing = matches!(refusal, RedisOpenError::Unreachable { .. } | RedisOpenError::Refusing { .. });
        assert!(is_passing, "{refusal}");
    }
}

#[tokio::test]
async fn a_killed_server_that_comes_back_has_everything() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let accepted = broker.append(appends("a", 20)).await.unwrap();
    let held = claim(&*broker, "a", 10).await;
    rig.server.kill9();
    assert!(broker.append(appends("a", 1)).await.is_err());
    eventually("the trouble is shown", || async { broker.health().trouble }).await;
    rig.server.restart().unwrap();
    for delivery in &held {
        let batch = vec![settle(delivery, Settlement::Processed, Vec::new())];
        let settled = eventually("it recovers by itself", || async { broker.settle(batch.clone()).await.ok() }).await;
        assert_eq!(settled, [SettleOutcome::Done]);
    }
    for delivery in claim(&*broker, "a", 50).await {
        assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    for accepted in accepted {
        assert_eq!(state(&*broker, accepted.id).await, Some(EventState::Processed));
    }
    eventually("the trouble is over", || async { broker.health().ready().then_some(()) }).await;
    assert_eq!(broker.stats().await.unwrap().counters.data_losses, 0);
}

#[tokio::test]
async fn a_stopped_server_leaves_the_outcome_open_and_nothing_double() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    rig.server.stop().unwrap();
    let mut events = appends("a", 1);
    events[0].idempotency = idempotency(1, 1);
    let settling = broker.settle(vec![settle(&delivery, Settlement::Processed, appends("children", 1))]);
    let (appended, settled) = futures_util::future::join(broker.append(events.clone()), settling).await;
    assert!(matches!(appended, Err(Error::Unavailable { outcome_known: false, .. })), "{appended:?}");
    assert!(matches!(settled, Err(Error::Unavailable { outcome_known: false, .. })), "{settled:?}");
    rig.server.cont().unwrap();
    let again = eventually("it recovers by itself", || async { broker.append(events.clone()).await.ok() }).await;
    assert_eq!(again[0].id, events[0].record.event.id);
    let batch = vec![settle(&delivery, Settlement::Processed, appends("children", 1))];
    let settled = eventually("the settle is answered", || async { broker.settle(batch.clone()).await.ok() }).await;
    assert_eq!(settled, [SettleOutcome::Done]);
    let counters = broker.stats().await.unwrap().counters;
    assert_eq!((counters.accepted, counters.processed, counters.published), (2, 1, 1));
}

#[tokio::test]
async fn unsafe_settings_are_refused_with_the_line_that_mends_them() {
    for (setting, word) in [
        (["--maxmemory-policy", "allkeys-lru"], "CONFIG SET maxmemory-policy noeviction"),
        (["--appendonly", "no"], "CONFIG SET appendonly yes"),
    ] {
        let rig = RedisRig::with(&setting);
        let refused = rig.try_open(&rig.server.url(), options()).await.map(|_| ()).unwrap_err();
        assert!(matches!(&refused, RedisOpenError::Unsafe(line) if line.contains(word)), "{refused:?}");
        let broker = rig.direct(BrokerOptions { allow_unsafe: true, ..options() }).await;
        assert!(broker.health().ready());
        broker.append(appends("a", 1)).await.expect("it was allowed");
        drop(broker);
        let line: Vec<&str> = word.split(' ').collect();
        let () = rig.admin(&line);
        rig.direct(options()).await;
    }
}

#[tokio::test]
async fn settings_that_become_unsafe_stop_accepting_but_not_working() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    let () = rig.admin(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let trouble = eventually("it is noticed", || async { broker.health().trouble }).await;
    assert!(trouble.contains("noeviction"), "{trouble}");
    assert!(matches!(broker.append(appends("a", 1)).await, Err(Error::Unsafe(_))));
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    let () = rig.admin(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    eventually("it is noticed", || async { broker.health().ready().then_some(()) }).await;
    broker.append(appends("a", 1)).await.expect("accepted again");
}

#[tokio::test]
async fn durability_is_named_as_it_is() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    assert_eq!(broker.health().durability, Durability::Fsync);
    for (setting, value, durability) in [
        ("appendfsync", "everysec", Durability::Everysec),
        ("appendfsync", "no", Durability::None),
        ("appendfsync", "always", Durability::Fsync),
        ("no-appendfsync-on-rewrite", "yes", Durability::None),
    ] {
        let () = rig.admin(&["CONFIG", "SET", setting, value]);
        eventually("it is noticed", || async { (broker.health().durability == durability).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_log_that_is_switched_on_counts_when_all_data_is_in_it() {
    let rig = RedisRig::with(&["--appendonly", "no"]);
    let broker = rig.direct(BrokerOptions { allow_unsafe: true, ..options() }).await;
    broker.append(appends("a", 3)).await.unwrap();
    assert_eq!(broker.health().durability, Durability::None);
    // A second for each key, so that it is seen on the way.
    let () = rig.admin(&["CONFIG", "SET", "rdb-key-save-delay", "1000000"]);
    let () = rig.admin(&["CONFIG", "SET", "appendonly", "yes"]);
    let mut looks = 0;
    loop {
        let durability = broker.health().durability;
        let info: String = rig.admin(&["INFO", "persistence"]);
        assert!(info.contains("aof_enabled:1"), "the server says that it keeps a log: {info}");
        if info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0") {
            break;
        }
        assert_eq!(durability, Durability::None, "{info}");
        looks += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(looks > 0, "it took a while");
    eventually("it counts", || async { (broker.health().durability == Durability::Fsync).then_some(()) }).await;
}

#[tokio::test]
async fn a_server_that_does_not_show_its_settings_is_served_as_unknown() {
    let rig = RedisRig::new();
    let () = rig.admin(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-config", "-client|id"]);
    let url = rig.server.url().replace("redis://", "redis://app:secret@");
    let broker = rig.try_open(&url, options()).await.expect("the broker opens");
    assert_eq!(broker.health().durability, Durability::Unknown);
    assert!(broker.health().ready(), "{:?}", broker.health());
    let delivery = deliver_one(&*broker, "a").await;
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let rig = RedisRig::new();
    let open = |url: String| {
        let rig = &rig;
        async move { rig.try_open(&url, options()).await.map(|_| ()).unwrap_err() }
    };
    let wrong = open(rig.server.url().replace("redis://", "redis://nobody:wrong@")).await;
    assert!(matches!(&wrong, RedisOpenError::Misconfigured(_)), "{wrong:?}");
    let () = rig.admin(&["REPLICAOF", "127.0.0.1", "1"]);
    let replica = open(rig.server.url()).await;
    assert!(matches!(&replica, RedisOpenError::Unsupported(why) if why.contains("replica")), "{replica:?}");
    rig.server.kill9();
    let away = open(rig.server.url()).await;
    let address = rig.server.address().to_string();
    assert!(matches!(&away, RedisOpenError::Unreachable { .. }) && away.to_string().contains(&address), "{away}");
    assert!(!away.to_string().contains('\n'));
}
