//! How fast the embedded broker is, how much memory and disk it takes, and how long a full store takes to open.
//!
//! Measures and prints, and asserts only that every event ended. `SPEED_EVENTS` sets the largest number of waiting
//! events.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventstream::broker::embedded::EmbeddedBroker;
use eventstream::broker::{AppendRequest, Broker, ClaimRequest, EventLog, LaneDemand, WorkQueue};
use eventstream::event::{DeliveryStart, EventData};
use futures_util::future::join_all;

use super::audit::open;
use super::load;

const BATCH: usize = 100;

fn append_of_200_bytes() -> AppendRequest {
    let mut append = load::new_append(None);
    std::sync::Arc::make_mut(&mut append.record.event).data = Some(EventData::text("x".repeat(200)));
    append.lane = "a".parse().unwrap();
    append.start = DeliveryStart::Now;
    append
}

fn report(what: &str, events: usize, took: Duration) {
    let rate = events as f64 / took.as_secs_f64();
    println!("{what:<44} {events:>9} events {:>9.1} ms {rate:>10.0} /s", took.as_secs_f64() * 1_000.0);
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

fn disk_mib(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>() / (1024 * 1024)
}

async fn drain(broker: &EmbeddedBroker, events: usize, batch: usize) {
    let result = EventData::text("y".repeat(95));
    let mut done = 0;
    while done < events {
        let batch = batch.min(events - done);
        let lanes = vec![LaneDemand { lane: "a".parse().unwrap(), free: batch }];
        let deliveries = broker.claim(ClaimRequest { lanes, max: batch }).await.unwrap();
        let settles = deliveries.into_iter().map(|delivery| load::processed(delivery, Some(result.clone())));
        done += broker.settle(settles.collect()).await.unwrap().len();
    }
}

async fn append(broker: &Arc<EmbeddedBroker>, events: usize, batch: usize, side_by_side: usize) {
    let mut done = 0;
    while done < events {
        let requests = (0..side_by_side).map(|_| broker.append((0..batch).map(|_| append_of_200_bytes()).collect()));
        done += join_all(requests).await.into_iter().map(|accepted| accepted.unwrap().len()).sum::<usize>();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures for minutes; run it with --release"]
async fn measured() {
    let most: usize = std::env::var("SPEED_EVENTS").map_or(200_000, |events| events.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    println!("resident at first: {} MiB", resident_mib());

    let began = Instant::now();
    append(&broker, 500, 1, 1).await;
    report("append, one at a time", 500, began.elapsed());
    let began = Instant::now();
    append(&broker, 20_032, 1, 64).await;
    report("append, 64 requests side by side", 20_032, began.elapsed());
    let began = Instant::now();
    drain(&broker, 20_532, BATCH).await;
    report("claim and settle, batches of 100", 20_532, began.elapsed());

    let began = Instant::now();
    append(&broker, most, BATCH, 4).await;
    report("append, batches of 100", most, began.elapsed());
    println!("resident with {most} waiting: {} MiB; on disk: {} MiB", resident_mib(), disk_mib(dir.path()));
    let began = Instant::now();
    broker.stats().await.unwrap();
    report("stats", 1, began.elapsed());
    let began = Instant::now();
    let some = most.min(20_000) - 1;
    drain(&broker, some, BATCH).await;
    report("claim and settle with that many waiting", some, began.elapsed());
    drop(broker);

    let began = Instant::now();
    let broker = open(dir.path());
    report("open after a crash", 1, began.elapsed());
    drain(&broker, 1, 1).await;
    report("open, first claim and settle", 1, began.elapsed());
    let began = Instant::now();
    broker.close().await.unwrap();
    report("close", 1, began.elapsed());
    println!("resident at last: {} MiB; on disk: {} MiB", resident_mib(), disk_mib(dir.path()));
}
