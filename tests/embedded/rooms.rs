//! Disks that are full.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventstream::broker::embedded::EmbeddedBroker;
use eventstream::broker::{
    AppendRequest, BrokerOptions, ClaimRequest, Error, EventLog, Lane, LaneDemand, RetentionLimits, SettleOutcome,
    StoreTransfer, WorkQueue,
};
use eventstream::shutdown::TaskGroup;
use eventstream_tests::small_disk;

use super::audit::{audit, open, options};
use super::disk::Disk;
use super::load::{self, Ack};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_under_load_loses_nothing_and_heals_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::under(dir.path());
    let broker = open(dir.path());
    let (acks, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let seen = acks.clone();
    let loading = load::run(broker.clone(), stop.clone(), move |ack| seen.lock().unwrap().push(ack));
    let filling = async {
        for room in [2_000_000, 300_000, 0] {
            disk.limit_room(Some(room));
            eventually(|| broker.health().trouble.is_some()).await;
            assert!(broker.health().trouble.is_some_and(|trouble| trouble.contains("no room")));
            disk.limit_room(None);
            eventually(|| broker.health().trouble.is_none()).await;
            let acknowledged = acks.lock().unwrap().len();
            eventually(|| acks.lock().unwrap().len() > acknowledged + 50).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(loading, filling);
    drop((broker, disk));
    let acks: Vec<Ack> = std::mem::take(&mut acks.lock().unwrap());
    audit(dir.path(), &acks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_want_of_room_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::under(dir.path());
    let broker = open(dir.path());
    disk.limit_room(Some(0));
    let refused = loop {
        match broker.append(vec![load::new_append(None)]).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::NoRoom(_)), "{refused}");
    assert!(refused.is_transient());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the work of the process that the other test gives a small disk"]
async fn work_on_a_small_disk() {
    let Some(dir) = small_disk::directory() else { return };
    let_others_fill(&dir);
    let retention = RetentionLimits {
        processed_ms: 0,
        processed_max: 0,
        processed_max_bytes: u64::MAX,
        discarded_ms: 0,
        idempotency_ms: 0,
        idempotency_max_bytes: u64::MAX,
        ..BrokerOptions::default().retention
    };
    let broker = EmbeddedBroker::open(&dir, BrokerOptions { retention, ..options() }, &TaskGroup::new()).unwrap();
    let lanes = twelve_lanes();
    let batch = || spread_batch(&lanes);
    let wants: Vec<LaneDemand> = lanes.iter().map(|lane| LaneDemand { lane: lane.clone(), free: 20 }).collect();
    let mut acks = Vec::new();
    let refused = loop {
        match broker.append(batch()).await {
            Ok(accepted) => acks.push(Ack::Accepted(accepted.iter().map(|it| it.id).collect())),
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, Error::NoRoom(why) if why.contains("kept for what was accepted")), "{refused}");
    assert!(broker.health().trouble.is_some());
    assert!(acks.len() > 20);
    // Everything that was accepted can still be processed, and then there is room for more.
    while broker.stats().await.unwrap().depth.waiting() > 0 {
        broker.promote().await.unwrap();
        let deliveries = broker.claim(ClaimRequest { lanes: wants.clone(), max: 20 }).await.unwrap();
        let settles: Vec<_> = deliveries.into_iter().map(|delivery| load::processed(delivery, None)).collect();
        let settled = broker.settle(settles).await.unwrap();
        assert!(settled.iter().all(|it| *it == SettleOutcome::Done));
        // Upkeep fails as long as there is no room.
        let _ = broker.maintain().await;
    }
    eventually_async(async || broker.maintain().await.is_ok() && broker.health().trouble.is_none()).await;
    broker.append(batch()).await.unwrap();
    println!("worked off");
}

#[test]
fn on_a_small_disk_that_is_full_what_was_accepted_is_worked_off() {
    small_disk::run_on_small_disk("rooms::work_on_a_small_disk", "worked off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the work of the process that the other test gives a small disk"]
async fn work_on_a_small_disk_that_is_read() {
    let Some(dir) = small_disk::directory() else { return };
    let_others_fill(&dir);
    let broker = open(&dir);
    let batch = || spread_batch(&twelve_lanes());
    broker.append(batch()).await.unwrap();
    let reading = broker.snapshot().await.unwrap();
    while broker.append(batch()).await.is_ok() {}
    assert!(broker.health().trouble.is_some_and(|trouble| trouble.contains("no room")));
    drop(reading);
    // Only the upkeep of an idle host.
    eventually_async(async || broker.maintain().await.is_ok() && broker.health().trouble.is_none()).await;
    for _ in 0..20 {
        broker.append(batch()).await.unwrap();
    }
    println!("accepts again");
}

/// The part of the log that a reader needed must become free when the reader ends, even if nothing is committed.
#[test]
fn on_a_small_disk_that_an_export_filled_events_are_accepted_again_when_it_is_over() {
    small_disk::run_on_small_disk("rooms::work_on_a_small_disk_that_is_read", "accepts again");
}

/// Leaves a quarter of the disk, since all plugins together may take only a part of it.
fn let_others_fill(dir: &std::path::Path) {
    std::fs::write(dir.join("others"), vec![7; 32 << 20]).unwrap();
}

/// Many plugins, since each may take only a share of the disk.
fn twelve_lanes() -> Vec<Lane> {
    (0..12).map(|n| format!("plugin-{n}").parse().unwrap()).collect()
}

fn spread_batch(lanes: &[Lane]) -> Vec<AppendRequest> {
    let lane = || lanes[fastrand::usize(..lanes.len())].clone();
    (0..50).map(|_| AppendRequest { lane: lane(), ..load::new_append(None) }).collect()
}

async fn eventually_async(condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.expect("it should have come by now");
}

async fn eventually(condition: impl Fn() -> bool) {
    eventually_async(async || condition()).await;
}
