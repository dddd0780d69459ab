//! Power cuts at any moment, and syncs that fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventstream::broker::embedded::EmbeddedBroker;
use eventstream::broker::{AppendRequest, Broker, Error, EventLog, WorkQueue};
use eventstream::event::{DeliveryStart, EventState};
use eventstream::shutdown::TaskGroup;
use futures_util::future::join_all;

use super::audit::{audit, open, options};
use super::disk::Disk;
use super::load::{self, Ack};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_the_power_goes_what_was_acknowledged_is_there_and_nothing_is_half_there() {
    const CUTS: usize = 30;
    const ACKS_A_CUT: usize = 35;
    let seed = fastrand::u64(..);
    println!("seed of the cuts: {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let disk = Disk::under(&store);
    let broker = open(&store);
    let (acks, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let seen = acks.clone();
    let loading = load::run(broker.clone(), stop.clone(), move |ack| seen.lock().unwrap().push(ack));
    let cutting = async {
        let mut images = Vec::new();
        for cut in 0..CUTS {
            tokio::time::sleep(Duration::from_millis(random.u64(1..60))).await;
            // There is something to lose at each cut, however slow the machine is.
            let worked = async {
                while acks.lock().unwrap().len() < (cut + 1) * ACKS_A_CUT {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), worked).await.expect("the load goes on");
            // Everything acknowledged by now must survive a cut.
            let acknowledged = acks.lock().unwrap().len();
            let image = dir.path().join(format!("cut-{cut}"));
            // The high-water mark next to the database may have reached the disk at once.
            let memory = std::fs::read(store.join("lock")).unwrap();
            disk.cut_power(&mut random, &image);
            std::fs::write(image.join("lock"), memory).unwrap();
            images.push((image, acknowledged));
        }
        stop.store(true, Ordering::Relaxed);
        images
    };
    let ((), images) = tokio::join!(loading, cutting);
    assert_eq!(broker.health().trouble, None);
    let acks: Vec<Ack> = std::mem::take(&mut acks.lock().unwrap());
    assert!(images.last().unwrap().1 > 1_000, "the load was a load");
    for (image, acknowledged) in images {
        audit(&image, &acks[..acknowledged]).await;
        std::fs::remove_dir_all(image).unwrap();
    }
    broker.close().await.unwrap();
    drop((broker, disk));
    audit(&store, &acks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_sync_that_failed_nothing_is_acknowledged_before_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::under(dir.path());
    let broker = open(dir.path());
    let append = || vec![AppendRequest { start: DeliveryStart::Now, ..load::new_append(None) }];
    let kept = broker.append(append()).await.unwrap()[0].id;
    disk.fail_syncs(true);
    let failed = broker.append(append()).await.unwrap_err();
    assert!(matches!(failed, Error::Unavailable { outcome_known: false, .. }), "{failed}");
    let synced = disk.syncs();
    // The disk reports success again, but it may have lost data.
    disk.fail_syncs(false);
    for _ in 0..3 {
        let refused = broker.append(append()).await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable { outcome_known: true, .. }), "{refused}");
    }
    assert!(broker.maintain().await.is_err());
    assert!(broker.health().trouble.is_some_and(|trouble| trouble.contains("started again")));
    broker.close().await.unwrap();
    drop(broker);
    assert_eq!(disk.syncs(), synced, "no sync is tried again, not even at the end");
    drop(disk);
    audit(dir.path(), &[Ack::Accepted(vec![kept])]).await;
    let broker = open(dir.path());
    assert!(broker.append(append()).await.is_ok());
    assert_eq!(broker.find_event(kept).await.unwrap().map(|found| found.state), Some(EventState::Queued));
}

/// After a failed sync, data that the disk lost must not be read from the log at the next start, or the records after
/// it would be lost as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_after_a_failed_sync_and_a_restart_survives_a_power_cut() {
    let mut random = fastrand::Rng::new();
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let disk = Disk::under(&store);
    let mut acks = Vec::new();
    for round in 0..3 {
        let broker = open(&store);
        for _ in 0..20 {
            let accepted = broker.append(vec![load::new_append(None)]).await.unwrap();
            acks.push(Ack::Accepted(vec![accepted[0].id]));
        }
        let image = dir.path().join(format!("cut-{round}"));
        disk.cut_power(&mut random, &image);
        audit(&image, &acks).await;
        disk.fail_syncs(true);
        assert!(broker.append(vec![load::new_append(None)]).await.is_err());
        drop(broker);
        disk.fail_syncs(false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_log_cannot_be_moved_after_a_crash_is_refused_and_opens_when_the_disk_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::under(dir.path());
    let broker = open(dir.path());
    let kept = broker.append(vec![load::new_append(None)]).await.unwrap()[0].id;
    drop(broker);
    disk.fail_syncs(true);
    let refused = EmbeddedBroker::open(dir.path(), options(), &TaskGroup::new()).map(drop).unwrap_err();
    assert!(refused.to_string().contains("the log that was left"), "{refused}");
    disk.fail_syncs(false);
    assert!(open(dir.path()).find_event(kept).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_waits_for_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::under(dir.path());
    let broker = open(dir.path());
    for _ in 0..20 {
        let before = disk.syncs();
        broker.append(vec![load::new_append(None)]).await.unwrap();
        assert!(disk.syncs() > before);
    }
    let before = disk.syncs();
    let requests = (0..200).map(|_| broker.append(vec![load::new_append(None)]));
    let answers = join_all(requests).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(disk.syncs() - before < 100, "those that wait together share a sync");
}
