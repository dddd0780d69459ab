//! The ledger run: a deployment under load and under attack, and the audit of what became of every event.
//!
//! `EVENTSTREAM_CHAOS_SECONDS` sets the length of the long run (60 by default), `EVENTSTREAM_CHAOS_SEED` its seed, which
//! is printed. The other tests show that the run finds what it is there to find: each switches on one fault that was put
//! into the host on purpose and must see the audit fail. One test runs at a time, since each takes the whole machine.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what goes wrong in a test is for the person who reads it"
)]

mod deployment;
mod nemesis;
mod producers;
mod state;
mod store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deployment::{Deployment, MAX_ATTEMPTS};
use eventstream_tests::eventually::eventually;
use eventstream_tests::ledger::{Kind, Ledger, Observed};
use eventstream_tests::store::Broker;
use nemesis::Faults;
use producers::Load;
use serde_json::Value;

/// Held by the test that runs.
static TURN: Mutex<()> = Mutex::new(());

/// How long a deployment that is whole again may go without any progress.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// Some of everything.
const MIX: &[(u32, Kind)] = &[
    (40, Kind::Ok),
    (12, Kind::Flaky),
    (20, Kind::Coin),
    (4, Kind::Hopeless),
    (6, Kind::Rejected),
    (2, Kind::Slow),
    (12, Kind::Parent(3)),
    (2, Kind::Unhandled),
];

/// What the issue of every day is, in quick succession.
const FAULTS: Faults = Faults {
    kill_host: Some(Duration::from_secs(2)),
    kill_store: Some(Duration::from_secs(8)),
    stop_host: Some(Duration::from_secs(9)),
    freeze_wire: Some(Duration::from_secs(7)),
    cut_wire: Some(Duration::from_secs(5)),
    destroy_groups: Some(Duration::from_secs(20)),
    delay_ms: 1,
};

/// The same for one host on a directory: there is no wire to cut, and to kill the host is to kill the store.
const FAULTS_OF_ONE: Faults = Faults {
    kill_host: Some(Duration::from_secs(2)),
    kill_store: None,
    stop_host: Some(Duration::from_secs(9)),
    freeze_wire: None,
    cut_wire: None,
    destroy_groups: None,
    delay_ms: 0,
};

/// One run.
struct Run {
    broker: Broker,
    seed: u64,
    time: Duration,
    load: Load,
    faults: Faults,
    mutant: Option<&'static str>,
}

/// Runs, heals, waits until everything has ended, and audits. Every broken promise is given back.
fn run(run: &Run) -> Vec<String> {
    let deployment = Deployment::start(run.broker, run.mutant);
    let hosts = deployment.places.len();
    eventually("all hosts serve", || {
        let serving = (0..hosts).filter(|place| deployment.url(*place).is_some()).count();
        if serving == hosts { Ok(()) } else { Err(format!("{serving} do; {:?}", deployment.findings())) }
    });
    let (ledger, stop) = (Mutex::new(Ledger::default()), AtomicBool::new(false));
    let done = std::thread::scope(|threads| {
        for number in 0..run.load.senders {
            let (deployment, ledger, stop) = (&deployment, &ledger, &stop);
            threads.spawn(move || producers::send(number, run.seed, &run.load, deployment, ledger, stop));
        }
        let done = nemesis::torment(&deployment, &run.faults, run.seed, run.time);
        stop.store(true, Ordering::SeqCst);
        done
    });
    let ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprintln!(
        "seed {}: {done}; hosts started {} times; {} events accepted",
        run.seed,
        deployment.starts(),
        ledger.len()
    );

    let mut broken = deployment.findings();
    let healed = Instant::now();
    if let Err(stuck) = drained(&deployment) {
        broken.push(stuck);
    }
    let observed = eventually("the ends can be read", || {
        deployment.client().ok_or("no host serves").map(|client| Observed {
            processed: client.processed(),
            failed: client.failed(),
            metrics: client.metrics(),
            max_attempts: MAX_ATTEMPTS,
        })
    });
    broken.extend(ledger.audit(&observed));
    if broken.is_empty() {
        broken.extend(store::leftovers(&deployment, &observed, ledger.len()));
    }
    eprintln!("drained and audited within {:?}; {}", healed.elapsed(), observed.metrics);
    broken
}

/// Waits until no event waits any more.
fn drained(deployment: &Deployment) -> Result<(), String> {
    let (mut last, mut since) = (Value::Null, Instant::now());
    while since.elapsed() < STUCK_AFTER {
        if let Some(client) = deployment.client()
            && let Ok(answer) = client.request("GET", "/metrics", &[], None)
            && answer.status == 200
        {
            let metrics = answer.json();
            if metrics["waiting"] == 0 {
                return Ok(());
            }
            if metrics != last {
                (last, since) = (metrics, Instant::now());
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("nothing has moved for {} s, and events still wait: {last}", STUCK_AFTER.as_secs()))
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number, not {text:?}")))
}

fn seed() -> u64 {
    from_environment("EVENTSTREAM_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000))
}

#[track_caller]
fn every_promise_is_kept(broker: Broker, faults: Faults) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let time = Duration::from_secs(from_environment("EVENTSTREAM_CHAOS_SECONDS").unwrap_or(60));
    let load = Load { senders: 4, pause: Duration::from_millis(60), mix: MIX };
    let broken = run(&Run { broker, seed: seed(), time, load, faults, mutant: None });
    assert!(broken.is_empty(), "{} promises were broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_event_has_one_end_whatever_dies() {
    every_promise_is_kept(Broker::Redis, FAULTS);
}

#[test]
fn every_event_has_one_end_though_the_only_host_dies_again_and_again() {
    every_promise_is_kept(Broker::Embedded, FAULTS_OF_ONE);
}

/// Runs with a fault in the host until the audit fails, a few times at most, and checks that it does.
#[track_caller]
fn is_caught(mutant: &'static str, mix: &'static [(u32, Kind)], faults: Faults, told: &[&str]) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for round in 1..=3 {
        let load = Load { senders: 4, pause: Duration::from_millis(15), mix };
        let (broker, time) = (Broker::Redis, Duration::from_secs(8));
        let broken = run(&Run { broker, seed: seed(), time, load, faults, mutant: Some(mutant) });
        if broken.is_empty() {
            continue;
        }
        eprintln!("{mutant}: caught in round {round}:\n{}", broken.join("\n"));
        // For the right reason, and not because the deployment did not come up.
        let is_told = broken.iter().any(|line| told.iter().any(|word| line.contains(word)));
        assert!(is_told, "the mutant {mutant} broke something else: {broken:?}");
        return;
    }
    panic!("the mutant {mutant} was not caught");
}

/// Kills hosts and nothing else, so often that some die between any two steps.
pub(crate) const KILLS: Faults = Faults {
    kill_host: Some(Duration::from_millis(500)),
    kill_store: None,
    stop_host: None,
    freeze_wire: None,
    cut_wire: None,
    destroy_groups: None,
    delay_ms: 12,
};

#[test]
fn acknowledging_before_the_outcome_is_stored_is_caught() {
    is_caught("ack-first", &[(3, Kind::Ok), (1, Kind::Flaky)], KILLS, &["has no end"]);
}

#[test]
fn settling_without_a_fence_is_caught() {
    let pauses = Faults {
        kill_host: None,
        stop_host: Some(Duration::from_millis(1_500)),
        freeze_wire: Some(Duration::from_millis(1_500)),
        delay_ms: 2,
        ..KILLS
    };
    is_caught(
        "no-fence",
        &[(3, Kind::Coin), (1, Kind::Parent(2))],
        pauses,
        &["ended twice", "the total", "nobody sent it"],
    );
}

#[test]
fn promoting_by_removing_first_is_caught() {
    is_caught("promote-removes-first", &[(1, Kind::Flaky), (1, Kind::Hopeless)], KILLS, &["has no end"]);
}

#[test]
fn a_group_made_at_the_end_of_its_lane_is_caught() {
    let groups = Faults { kill_host: None, destroy_groups: Some(Duration::from_millis(1_500)), delay_ms: 2, ..KILLS };
    is_caught("group-at-end", &[(1, Kind::Ok)], groups, &["has no end", "nothing has moved"]);
}

#[test]
fn publishing_apart_from_the_settle_is_caught() {
    is_caught("publish-apart", &[(1, Kind::Parent(3))], KILLS, &["nobody sent it"]);
}
