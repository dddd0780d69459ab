//! Plugin state while hosts are killed: thousands of events increment counters, and read and rewrite keys. A sum reveals a
//! write that was lost, doubled, or made by a failed attempt.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use eventstream_tests::client::Client;
use eventstream_tests::eventually::{eventually, eventually_within};
use eventstream_tests::machine::Machine;
use eventstream_tests::store::Broker;
use serde_json::{Value, json};

use crate::deployment::Deployment;
use crate::injector::inject_faults;
use crate::nemesis::{Faults, Nemesis};
use crate::run::{STUCK_AFTER, SetWhenDropped, drained};
use crate::run_permit::RunPermit;
use crate::seed;

const EVENTS: usize = 10_000;
const BATCH: usize = 50;
/// The number of keys that events rewrite: few, so that many events conflict.
const KEYS: usize = 40;
const SENDERS: usize = 4;
/// How long all events may take on a busy machine.
const WORKED_OFF_WITHIN: Duration = Duration::from_secs(600);

const FAULTS: Faults = Faults { every: &[(Nemesis::KillHost, Duration::from_secs(3))], delay_ms: 0 };

/// The event of this number increments two counters and rewrites a key. Every seventh fails its first attempt after these
/// writes.
fn event(number: usize) -> Value {
    let calls = json!([
        {"increment": {"key": "events", "delta": 1}},
        {"increment": {"key": "numbers", "delta": number}},
        {"next": {"key": format!("next-{}", number % KEYS)}},
    ]);
    json!({"type": "count", "payload": {"state": calls, "flaky": if number.is_multiple_of(7) { 2 } else { 0 }}})
}

/// Sends the next batches, each until it is accepted.
fn send(deployment: &Deployment, next: &AtomicUsize) {
    loop {
        let first = next.fetch_add(BATCH, Ordering::SeqCst);
        if first >= EVENTS {
            return;
        }
        let body = json!((first..first + BATCH).map(event).collect::<Vec<_>>()).to_string();
        eventually("the batch is accepted", || {
            let url = deployment.url(fastrand::usize(..deployment.places.len())).ok_or("no host is there")?;
            let client = Client::with_timeout(&url, Duration::from_secs(2));
            match client.try_post_keyed(&body, &format!("batch-{first}")) {
                Ok(answer) if answer.status == 202 => Ok(()),
                Ok(answer) if matches!(answer.status, 429 | 503) => Err(format!("{}", answer.status)),
                Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
                Err(_) => Err("no answer".into()),
            }
        });
    }
}

#[track_caller]
fn sums_are_exact(broker: Broker) {
    let _turn = RunPermit::take();
    let deployment = Deployment::start(broker, Machine::new(), None);
    let (next, over, seed) = (AtomicUsize::new(0), AtomicBool::new(false), seed());
    let reported = Mutex::new(String::new());
    std::thread::scope(|threads| {
        // Ends the faults even if this thread panics.
        let _ends = SetWhenDropped(&over);
        threads.spawn(|| {
            let mut round = 0;
            while !over.load(Ordering::SeqCst) {
                round += 1;
                let done = inject_faults(&deployment, &FAULTS, seed + round, Duration::from_secs(10));
                *reported.lock().unwrap() = format!("round {round}: {done}");
            }
        });
        let senders: Vec<_> = (0..SENDERS).map(|_| threads.spawn(|| send(&deployment, &next))).collect();
        for sender in senders {
            sender.join().unwrap();
        }
        eventually_within(WORKED_OFF_WITHIN, "most of the events have ended under attack", || {
            let metrics = deployment.client().map(|client| client.request("GET", "/metrics", &[], None));
            match metrics {
                Some(Ok(answer)) if answer.status == 200 => {
                    let waiting = answer.json()["waiting"].as_u64().unwrap_or(u64::MAX);
                    if waiting < EVENTS as u64 / 20 { Ok(()) } else { Err(format!("{waiting} wait")) }
                }
                _ => Err("no host answers".into()),
            }
        });
    });
    eprintln!("seed {seed}, {}, hosts started {} times", reported.lock().unwrap(), deployment.starts());
    assert_eq!(drained(&deployment, STUCK_AFTER), Ok(()));
    let client = eventually("a host serves", || deployment.client().ok_or("none does"));
    let keys = ["events", "numbers"].map(str::to_owned).into_iter().chain((0..KEYS).map(|n| format!("next-{n}")));
    let calls: Vec<Value> = keys.map(|key| json!({"get": {"key": key}})).collect();
    let id = client.post_event("count", &json!({"state": calls, "do": "state"}));
    let result: Value = serde_json::from_str(client.wait_ended(&id).result.unwrap().get()).unwrap();
    let numbers: Vec<u64> = result.as_array().unwrap().iter().map(|it| it.as_str().unwrap().parse().unwrap()).collect();
    let metrics = client.metrics();
    eprintln!("{metrics}");
    assert_eq!(metrics["failed"], 0, "{metrics}");
    assert_eq!(numbers[0], EVENTS as u64);
    assert_eq!(numbers[1], (EVENTS * (EVENTS - 1) / 2) as u64);
    assert_eq!(numbers[2..], [(EVENTS / KEYS) as u64; KEYS]);
    assert_eq!(deployment.findings(), [""; 0]);
}

#[test]
fn counters_and_rewritten_keys_are_exact_though_hosts_are_killed() {
    sums_are_exact(Broker::Redis);
}

#[test]
fn counters_and_rewritten_keys_are_exact_though_the_only_host_is_killed() {
    sums_are_exact(Broker::Embedded);
}
