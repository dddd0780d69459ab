//! A Redis that refuses every write, because it lacks replicas, disk or memory. The broker reports it without any
//! request, and reads go on.

use std::time::Duration;

use eventstream::broker::contract::*;
use eventstream::broker::redis::RedisOpenError;
use eventstream::broker::{EndKind, Error};
use eventstream::event::{EventState, FailureClass};

use crate::rig::RedisRig;

/// Waits for a reported trouble that contains this word.
async fn trouble_with(broker: &dyn Broker, word: &str) {
    eventually(&format!("{word} is told"), || async {
        broker.health().trouble.is_some_and(|trouble| trouble.contains(word)).then_some(())
    })
    .await;
}

async fn is_over(broker: &dyn Broker) {
    eventually("it is over", || async { broker.health().ready().then_some(()) }).await;
    broker.append(appends("a", 1)).await.expect("accepted again");
}

#[tokio::test]
async fn want_of_replicas_is_told_and_passes_by_itself() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let () = rig.admin(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    trouble_with(&*broker, "min-replicas-to-write").await;
    let health = broker.health();
    assert!(!health.accepting && !health.handling, "{health:?}");
    let refused = broker.append(appends("a", 1)).await;
    assert!(matches!(refused, Err(Error::Unavailable { outcome_known: true, .. })), "{refused:?}");
    let () = rig.admin(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    is_over(&*broker).await;
}

#[tokio::test]
async fn a_snapshot_that_fails_is_told_and_passes_by_itself() {
    let rig = RedisRig::with(&["--dbfilename", "taken.rdb"]);
    let broker = rig.direct(options()).await;
    std::fs::create_dir(rig.server.directory().join("taken.rdb")).unwrap();
    broker.append(appends("a", 1)).await.expect("accepted");
    let () = rig.admin(&["CONFIG", "SET", "save", "1 1"]);
    // Redis may be rewriting its log now.
    let _: String = rig.admin(&["BGSAVE", "SCHEDULE"]);
    trouble_with(&*broker, "MISCONF").await;
    assert!(!broker.health().accepting && !broker.health().handling);
    let () = rig.admin(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    is_over(&*broker).await;
}

#[tokio::test]
async fn a_full_memory_is_told_without_anybody_sending() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let () = rig.admin(&["CONFIG", "SET", "maxmemory", "1"]);
    trouble_with(&*broker, "maxmemory").await;
    assert!(!broker.health().accepting && broker.health().handling, "{:?}", broker.health());
    let () = rig.admin(&["CONFIG", "SET", "maxmemory", "0"]);
    is_over(&*broker).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_writes_is_told() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let () = rig.admin(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    eventually("it is told", || async { broker.health().trouble }).await;
    let () = rig.admin(&["CLIENT", "UNPAUSE"]);
    is_over(&*broker).await;
}

#[tokio::test]
async fn what_only_reads_goes_on_where_nothing_can_be_written() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let other = rig.direct(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    assert_eq!(
        settle_one(&*broker, &delivery, failed(FailureClass::Reject)).await,
        eventstream::broker::SettleOutcome::Done
    );
    // A lane that the other one does not know yet.
    other.append(appends("new", 3)).await.expect("accepted");
    let () = rig.admin(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    trouble_with(&*broker, "min-replicas-to-write").await;
    let stats = broker.stats().await.expect("totals are read");
    assert_eq!((stats.counters.accepted, stats.depth.queued["new"]), (4, 3));
    assert_eq!(all_ended(&*broker, EndKind::Failed).await.len(), 1);
    assert_eq!(state(&*broker, delivery.record.event.id).await, Some(EventState::Failed));
}

#[tokio::test]
async fn at_the_start_it_is_said_what_redis_refuses() {
    let rig = RedisRig::with(&["--min-replicas-to-write", "1"]);
    let refused = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match rig.try_open(&rig.server.url(), options()).await.map(|_| ()).unwrap_err() {
                // On a busy machine it may not answer at once.
                RedisOpenError::Unreachable { .. } => tokio::time::sleep(Duration::from_millis(20)).await,
                refused => return refused,
            }
        }
    })
    .await
    .expect("it is not told that it cannot be reached");
    assert!(matches!(&refused, RedisOpenError::Refusing { .. }), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains("min-replicas-to-write") && said.contains(&rig.server.address().to_string()), "{said}");
}
