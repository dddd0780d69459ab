//! Disks that are full.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventstream::broker::{Broker, Error};

use super::audit::{audit, open};
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

async fn eventually(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it should have come by now");
}
