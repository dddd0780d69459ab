//! A replicated pair whose primary is killed and comes back. The test does what Sentinel does.

use std::time::{Duration, Instant};

use eventstream::broker::BrokerOptions;
use eventstream::broker::contract::*;
use eventstream::broker::redis::RedisOpenError;
use eventstream_tests::redis::RedisServer;

use crate::rig::RedisRig;

/// When Sentinel demotes an old primary that came back.
const DEMOTED_AFTER: Duration = Duration::from_secs(11);

fn follow(replica: &RedisServer, primary: &RedisServer) {
    let () = replica.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).unwrap();
}

async fn is_in_step(primary: &RedisServer) {
    eventually("the replica is in step", || async {
        let info: String = primary.command(&["INFO", "replication"]).unwrap();
        let offset = |name: &str| info.split(['\r', '\n', ',']).find_map(|part| part.strip_prefix(name)?.parse().ok());
        let (own, replica): (Option<u64>, Option<u64>) = (offset("master_repl_offset:"), offset("offset="));
        (info.contains("state=online") && own == replica).then_some(())
    })
    .await;
}

/// A primary with a replica that is in step.
async fn pair_with(arguments: &[&str]) -> (RedisRig, RedisServer) {
    let rig = RedisRig::with(&[&["--repl-diskless-sync-delay", "0"], arguments].concat());
    let replica = RedisServer::start().unwrap();
    follow(&replica, &rig.server);
    is_in_step(&rig.server).await;
    (rig, replica)
}

async fn pair() -> (RedisRig, RedisServer) {
    pair_with(&[]).await
}

#[tokio::test]
async fn a_primary_that_comes_back_accepts_nothing_until_it_is_demoted() {
    let (rig, replica) = pair().await;
    let broker = rig.direct(options()).await;
    eventually("it is said that a failover may lose events", || async {
        broker.health().warning.filter(|warning| warning.contains("min-replicas-to-write"))
    })
    .await;
    let before = broker.append(appends("a", 20)).await.unwrap();
    is_in_step(&rig.server).await;
    rig.server.kill9();
    let () = replica.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    rig.server.restart().unwrap();
    let back = Instant::now();
    while back.elapsed() < DEMOTED_AFTER {
        let answer = broker.append(appends("a", 1)).await;
        assert!(answer.is_err(), "accepted by a primary that came back: {answer:?}");
        assert!(!broker.health().accepting && !broker.health().handling, "{:?}", broker.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    follow(&rig.server, &replica);
    eventually("the demotion is noticed", || async {
        assert!(broker.append(appends("a", 1)).await.is_err());
        broker.health().trouble.filter(|trouble| trouble.contains("connect to its primary"))
    })
    .await;
    let promoted = rig.try_open(&replica.url(), options()).await.unwrap();
    for accepted in before {
        assert!(promoted.find_event(accepted.id).await.unwrap().is_some(), "an accepted event is lost");
    }
    promoted.append(appends("a", 1)).await.expect("the new primary accepts");
    assert_eq!(promoted.stats().await.unwrap().counters.data_losses, 0);
}

#[tokio::test]
async fn a_new_process_waits_for_the_demotion_as_well() {
    let (rig, replica) = pair().await;
    rig.direct(options()).await.append(appends("a", 1)).await.unwrap();
    replica.kill9();
    rig.server.restart().unwrap();
    let url = rig.server.url();
    let demote = async {
        eventually("the server was asked", || async {
            let calls: String = rig.admin(&["INFO", "commandstats"]);
            calls.contains("cmdstat_hmget").then_some(())
        })
        .await;
        let () = rig.admin(&["REPLICAOF", "127.0.0.1", "1"]);
    };
    let (opened, ()) = tokio::join!(rig.try_open(&url, options()), demote);
    let refused = opened.map(|_| ()).unwrap_err();
    assert!(matches!(&refused, RedisOpenError::Unsupported(why) if why.contains("replica")), "{refused:?}");
}

#[tokio::test]
async fn a_primary_that_waits_for_its_replicas_is_used_as_soon_as_it_has_one() {
    let (rig, _replica) = pair_with(&["--min-replicas-to-write", "1"]).await;
    let broker = rig.direct(options()).await;
    broker.append(appends("a", 1)).await.expect("accepted");
    assert_eq!(broker.health().warning, None);
    rig.server.restart().unwrap();
    eventually("it accepts again", || async {
        let trouble = broker.health().trouble.unwrap_or_default();
        assert!(!trouble.contains("has restarted"), "{trouble}");
        broker.append(appends("a", 1)).await.ok()
    })
    .await;
}

#[tokio::test]
async fn what_a_failover_lost_is_counted_by_the_next_process() {
    let (rig, replica) = pair().await;
    let dir = tempfile::tempdir().unwrap();
    let kept = || BrokerOptions { data_dir: Some(dir.path().to_owned()), ..options() };
    let broker = rig.direct(kept()).await;
    broker.append(appends("a", 5)).await.unwrap();
    is_in_step(&rig.server).await;
    let () = replica.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let late = broker.append(appends("a", 3)).await.unwrap();
    broker.close().await.unwrap();
    let remembered = dir.path().join("redis-es.json");
    eventually("the total is remembered", || async {
        std::fs::read_to_string(&remembered).ok().filter(|text| text.contains("\"accepted\":8"))
    })
    .await;
    rig.server.kill9();
    for _ in 0..2 {
        let promoted = rig.try_open(&replica.url(), kept()).await.unwrap();
        assert_eq!(promoted.find_event(late[0].id).await.unwrap(), None);
        assert_eq!(promoted.stats().await.unwrap().counters.data_losses, 1, "one loss is counted once");
        promoted.append(appends("a", 1)).await.expect("it goes on");
        promoted.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_loss_that_one_append_would_make_up_for_is_noticed() {
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    broker.append(appends("a", 5)).await.unwrap();
    rig.proxy.cut();
    let () = rig.admin(&["HSET", &RedisRig::key("counts"), "accepted", "3"]);
    rig.proxy.restore();
    eventually("it accepts", || async { broker.append(appends("a", 50)).await.ok() }).await;
    eventually("the loss is counted", || async {
        (broker.stats().await.ok()?.counters.data_losses == 1).then_some(())
    })
    .await;
}
