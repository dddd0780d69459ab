//! The history of processed events: trimmed by the logs of the lanes, and beside hosts that write no logs.

use std::sync::Arc;
use std::time::Duration;

use eventstream::broker::contract::*;
use eventstream::broker::redis::RedisBroker;
use eventstream::broker::{BrokerOptions, EndKind, RetentionLimits, SettleOutcome};
use eventstream::event::{EventId, FailureClass, Settlement};

use crate::rig::RedisRig;

const LANES: [&str; 3] = ["a", "b", "c"];

async fn open(rig: &RedisRig, processed_max: u64) -> Arc<RedisBroker> {
    let retention = RetentionLimits { processed_max, ..BrokerOptions::default().retention };
    rig.direct(BrokerOptions { retention, ..options() }).await
}

async fn process(broker: &RedisBroker, name: &str, n: usize) -> Vec<EventId> {
    broker.append(appends(name, n)).await.unwrap();
    let held = claim(broker, name, n).await;
    let settles = held.iter().map(|delivery| settle(delivery, Settlement::Processed, Vec::new())).collect();
    assert_eq!(broker.settle(settles).await, Ok(vec![SettleOutcome::Done; n]));
    held.iter().map(|delivery| delivery.receipt.event_id).collect()
}

async fn trim(broker: &RedisBroker) {
    while broker.maintain().await.unwrap() {}
}

async fn kept_of(broker: &RedisBroker, ids: &[EventId]) -> Vec<EventId> {
    let kept: Vec<_> = all_ended(broker, EndKind::Processed).await.iter().map(|record| record.event.id).collect();
    ids.iter().copied().filter(|id| kept.contains(id)).collect()
}

fn total(rig: &RedisRig, field: &str) -> i64 {
    rig.admin::<Option<i64>>(&["HGET", &RedisRig::key("counts"), field]).unwrap_or(0)
}

/// The number of events that the log of a lane names.
fn in_log(rig: &RedisRig, name: &str) -> usize {
    let log: Vec<Vec<u8>> = rig.admin(&["LRANGE", &RedisRig::key(&format!("log:{name}")), "0", "-1"]);
    log.iter().map(|part| part.len() / 20).sum()
}

/// Forgets the log of a lane, as if an earlier host had settled all of its events.
fn forget_log(rig: &RedisRig, name: &str) {
    let _: u64 = rig.admin(&["DEL", &RedisRig::key(&format!("log:{name}"))]);
    let _: u64 = rig.admin(&["HDEL", &RedisRig::key("counts"), &format!("logged:{name}")]);
}

/// Trims the oldest event of all, as an earlier host does.
fn trim_as_an_earlier_host(rig: &RedisRig) {
    let done = RedisRig::key("done");
    let front: Vec<(String, Vec<Vec<u8>>)> = rig.admin(&["XRANGE", &done, "-", "+", "COUNT", "1"]);
    let Some((entry, fields)) = front.into_iter().next() else { return };
    let (id, ix, counts) =
        (String::from_utf8(fields[1].clone()).unwrap(), RedisRig::key("ix"), RedisRig::key("counts"));
    let place: Vec<u8> = rig.admin(&["HGET", &ix, &id]);
    let receipt = place.splitn(4, |byte| *byte == b'|').last().unwrap();
    let lane = String::from_utf8_lossy(receipt).split('/').next().unwrap().to_owned();
    let _: u64 = rig.admin(&["HDEL", &ix, &id]);
    let _: i64 = rig.admin(&["HINCRBY", &counts, &format!("kept:{lane}"), "-1"]);
    let _: i64 = rig.admin(&["HINCRBY", &counts, &format!("kept-bytes:{lane}"), &format!("-{}", fields[3].len())]);
    let _: u64 = rig.admin(&["XDEL", &done, &entry]);
}

/// Asserts that index, totals and history agree, and returns the number of processed events.
#[track_caller]
fn assert_consistent(rig: &RedisRig) -> i64 {
    let done: i64 = rig.admin(&["XLEN", &RedisRig::key("done")]);
    assert_eq!(rig.admin::<i64>(&["HLEN", &RedisRig::key("ix")]), done, "the index");
    assert_eq!(LANES.iter().map(|name| total(rig, &format!("kept:{name}"))).sum::<i64>(), done, "the totals");
    for name in LANES {
        assert_eq!(total(rig, &format!("logged:{name}")), in_log(rig, name) as i64, "the log of {name}");
        let bytes = total(rig, &format!("kept-bytes:{name}"));
        assert_eq!(bytes > 0, total(rig, &format!("kept:{name}")) > 0, "the bytes of {name}: {bytes}");
    }
    done
}

#[tokio::test]
async fn each_lane_loses_its_oldest_events_and_a_log_names_the_others() {
    let rig = RedisRig::new();
    let broker = open(&rig, 30).await;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for n in [1, 25, 2, 12] {
        a.extend(process(&broker, "a", n).await);
        b.extend(process(&broker, "b", n).await);
    }
    let c = process(&broker, "c", 4).await;
    // A settle with a published event takes another way through the script.
    broker.append(appends("a", 1)).await.unwrap();
    let parent = claim(&*broker, "a", 1).await.remove(0);
    let settles = vec![settle(&parent, Settlement::Processed, appends("c", 1))];
    assert_eq!(broker.settle(settles).await, Ok(vec![SettleOutcome::Done]));
    a.push(parent.receipt.event_id);
    assert_eq!([in_log(&rig, "a"), in_log(&rig, "b"), in_log(&rig, "c")], [41, 40, 4]);

    trim(&broker).await;
    let kept = [kept_of(&broker, &a).await, kept_of(&broker, &b).await, kept_of(&broker, &c).await];
    assert_eq!(kept[0].len() + kept[1].len(), 26, "as many as may be kept");
    assert!(kept[0].len().abs_diff(kept[1].len()) <= 3, "the largest lane loses events: {kept:?}");
    assert!(a.ends_with(&kept[0]) && b.ends_with(&kept[1]), "the oldest went");
    assert_eq!(kept[2], c, "a small lane keeps its own");
    for (name, kept) in LANES.into_iter().zip(&kept) {
        assert_eq!(in_log(&rig, name), kept.len());
    }
    let waiting = claim(&*broker, "c", 9).await;
    assert_eq!(settle_one(&*broker, &waiting[0], Settlement::Processed).await, SettleOutcome::Done);
    assert_eq!(assert_consistent(&rig), 31);
}

#[tokio::test]
async fn only_what_was_processed_in_a_batch_is_logged() {
    let rig = RedisRig::new();
    let broker = open(&rig, 1_000).await;
    broker.append(appends("a", 6)).await.unwrap();
    let held = claim(&*broker, "a", 6).await;
    assert_eq!(settle_one(&*broker, &held[1], Settlement::Processed).await, SettleOutcome::Done);
    let settlement = |n: usize| if n == 4 { failed(FailureClass::Reject) } else { Settlement::Processed };
    let settles = held.iter().enumerate().map(|(n, held)| settle(held, settlement(n), Vec::new())).collect();
    // The second event is a repetition.
    assert_eq!(broker.settle(settles).await, Ok(vec![SettleOutcome::Done; 6]));
    assert_eq!((in_log(&rig, "a"), total(&rig, "logged:a"), total(&rig, "kept:a")), (5, 5, 5));
}

#[tokio::test]
async fn a_history_of_earlier_and_later_hosts_is_trimmed_and_every_total_stays_right() {
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rig = RedisRig::new();
        let broker = open(&rig, 25).await;
        let mut newest = Vec::new();
        for _ in 0..40 {
            let name = LANES[random.usize(..LANES.len())];
            match random.u8(..8) {
                0 => forget_log(&rig, name),
                1 => (0..random.usize(..20)).for_each(|_| trim_as_an_earlier_host(&rig)),
                2 => {
                    trim(&broker).await;
                    assert!(assert_consistent(&rig) <= 25, "seed {seed}");
                }
                _ => newest = process(&broker, name, random.usize(1..12)).await,
            }
        }
        newest.extend(process(&broker, "b", 2).await);
        trim(&broker).await;
        assert!(assert_consistent(&rig) <= 25, "seed {seed}");
        assert!(!kept_of(&broker, &newest[newest.len() - 2..]).await.is_empty(), "seed {seed}: the newest stay");

        // By age, all of it goes, with its logs.
        let mut by_age = options();
        by_age.retention.processed_ms = 1;
        let last = rig.direct(by_age).await;
        tokio::time::timeout(Duration::from_secs(60), async {
            while rig.admin::<u64>(&["XLEN", &RedisRig::key("done")]) > 0 {
                trim(&last).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(assert_consistent(&rig), 0, "seed {seed}");
    }
}

#[tokio::test]
async fn a_program_that_trims_without_counting_makes_the_logs_begin_anew() {
    let rig = RedisRig::new();
    let broker = open(&rig, 10).await;
    process(&broker, "a", 20).await;
    let _: u64 = rig.admin(&["XTRIM", &RedisRig::key("done"), "MAXLEN", "=", "15"]);
    trim(&broker).await;
    assert_eq!(rig.admin::<u64>(&["XLEN", &RedisRig::key("done")]), 10);
    assert_eq!((in_log(&rig, "a"), total(&rig, "logged:a")), (0, 0));
    let newest = process(&broker, "a", 12).await;
    trim(&broker).await;
    assert_eq!(kept_of(&broker, &newest).await, newest[2..], "those that count for no lane went first");
    let newest = process(&broker, "a", 30).await;
    trim(&broker).await;
    assert_eq!(kept_of(&broker, &newest).await, newest[20..]);
}

#[tokio::test]
async fn a_misplaced_log_stops_neither_settling_nor_trimming() {
    let rig = RedisRig::new();
    let broker = open(&rig, 10).await;
    process(&broker, "a", 5).await;
    let log = RedisRig::key("log:a");
    let () = rig.admin(&["SET", &log, "foreign"]);
    let newest = process(&broker, "a", 20).await;
    trim(&broker).await;
    assert_eq!(kept_of(&broker, &newest).await, newest[10..]);
    assert_eq!(rig.admin::<String>(&["GET", &log]), "foreign");
    let _: u64 = rig.admin(&["DEL", &log]);
    let newest = process(&broker, "a", 12).await;
    trim(&broker).await;
    assert_eq!(kept_of(&broker, &newest).await, newest[2..]);
    assert_eq!(rig.admin::<u64>(&["HLEN", &RedisRig::key("ix")]), 10);
}
