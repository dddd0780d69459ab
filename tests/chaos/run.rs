//! One run: a deployment under load and under attack, made whole again, and the audit of what became of every event.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use eventstream_tests::client::Client;
use eventstream_tests::eventually::{PATIENCE, eventually, eventually_within, try_eventually};
use eventstream_tests::ledger::{Kind, Ledger, Observed};
use eventstream_tests::machine::Machine;
use eventstream_tests::store::Broker;
use serde_json::Value;

use crate::deployment::{Deployment, MAX_ATTEMPTS};
use crate::nemesis::{Done, Faults, Nemesis};
use crate::producers::{self, Load};
use crate::report::Report;
use crate::store;
use crate::torment::torment;

/// How long a deployment that is whole again may go without any progress, on a busy machine.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);
/// The same for one in which something is broken on purpose, and which is to be caught at it.
const MUTANT_STUCK_AFTER: Duration = Duration::from_secs(20);
/// How long an answer may take before the host that is asked counts as away.
const LOOK_LIMIT: Duration = Duration::from_millis(500);

/// Some of everything.
pub const MIX: &[(u32, Kind)] = &[
    (40, Kind::Ok),
    (12, Kind::Flaky),
    (20, Kind::Coin),
    (4, Kind::Hopeless),
    (6, Kind::Rejected),
    (2, Kind::Slow),
    (12, Kind::Parent(3)),
    (2, Kind::Unhandled),
];

/// The name of a disk that says of every sync that it was done, and loses everything in a power cut.
pub const LYING_DISK: &str = "lying-disk";

/// One run.
pub struct Run {
    /// On which store.
    pub broker: Broker,
    /// Decides what is sent and what goes wrong when.
    pub seed: u64,
    /// For how long things go wrong.
    pub time: Duration,
    /// What is sent.
    pub load: Load,
    /// What goes wrong.
    pub faults: Faults,
    /// A guarantee that is broken on purpose: a mutant of the host, or [`LYING_DISK`].
    pub mutant: Option<&'static str>,
}

/// Runs, heals, waits until everything has ended, and audits. With broken promises, `keep` is given the deployment before
/// it ends.
pub fn run(run: &Run, keep: impl FnOnce(&Deployment)) -> Report {
    let (machine, mutant) = match run.mutant {
        Some(LYING_DISK) => (Machine::new().lying(), None),
        mutant => (Machine::new(), mutant),
    };
    let deployment = Deployment::start(run.broker, machine, mutant);
    let hosts = deployment.places.len();
    eventually_within(4 * PATIENCE, "all hosts serve", || {
        let serving = (0..hosts).filter(|place| deployment.url(*place).is_some()).count();
        if serving == hosts { Ok(()) } else { Err(format!("{serving} do; {:?}", deployment.findings())) }
    });
    eventually("the log is whole", || deployment.log_is_whole().then_some(()).ok_or("it is not yet"));
    let (ledger, stop, over) = (Mutex::new(Ledger::default()), AtomicBool::new(false), AtomicBool::new(false));
    let longest = Mutex::new(Duration::ZERO);
    let (done, healed, drained) = std::thread::scope(|threads| {
        // Whatever happens in here, nobody goes on for ever.
        let _ends = (SetWhenDropped(&stop), SetWhenDropped(&over));
        let senders = (0..run.load.senders).map(|number| {
            let (deployment, ledger, stop) = (&deployment, &ledger, &stop);
            threads.spawn(move || producers::send(number, run.seed, &run.load, deployment, ledger, stop))
        });
        let senders: Vec<_> = senders.collect();
        threads.spawn(|| *longest.lock().unwrap_or_else(PoisonError::into_inner) = standstill(&deployment, &over));
        let done = torment(&deployment, &run.faults, run.seed, run.time);
        stop.store(true, Ordering::SeqCst);
        let healed = Instant::now();
        // A request that was under way is still repeated until it is answered.
        for sender in senders {
            sender.join().unwrap();
        }
        let drained = drained(&deployment, if run.mutant.is_some() { MUTANT_STUCK_AFTER } else { STUCK_AFTER });
        over.store(true, Ordering::SeqCst);
        (done, healed, drained)
    });
    let drained_within = healed.elapsed();
    let ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut broken = deployment.findings();
    broken.extend(drained.err());
    broken.extend(without_effect(&done));
    broken.extend(done.broken.iter().cloned());
    let observed = try_eventually(PATIENCE, || {
        deployment.client().ok_or("no host serves").map(|client| Observed {
            processed: client.processed(),
            failed: client.failed(),
            metrics: client.metrics(),
            max_attempts: MAX_ATTEMPTS,
            clock_error_ms: run.faults.clock_error().as_secs_f64() * 1_000.0,
        })
    });
    let observed = observed.unwrap_or_else(|reason| {
        broken.push(format!("the ends cannot be read: {reason}"));
        Observed::default()
    });
    broken.extend(ledger.audit(&observed));
    if broken.is_empty() {
        broken.extend(store::leftovers(&deployment, &observed, ledger.len()));
    }
    if !broken.is_empty() {
        keep(&deployment);
    }
    let longest_standstill = longest.into_inner().unwrap_or_else(PoisonError::into_inner);
    Report {
        broken,
        done,
        time: run.time,
        starts: deployment.starts(),
        accepted: ledger.len() as u64,
        published: total(&observed, "published"),
        processed: total(&observed, "processed"),
        failed: total(&observed, "failed"),
        waiting: total(&observed, "waiting"),
        retried: total(&observed, "retried"),
        recovered: total(&observed, "recovered"),
        runs_in_vain: observed.runs_in_vain(),
        effects_doubled: ledger.effects_doubled(&observed) as u64,
        longest_standstill,
        drained_within,
    }
}

fn total(observed: &Observed, name: &str) -> u64 {
    observed.metrics[name].as_u64().unwrap_or_default()
}

/// Replies that were to be dropped and never were, which would make a run of that worth nothing. Not so for want of memory:
/// a host on a busy machine may need none for a while.
fn without_effect(done: &Done) -> Option<String> {
    let struck = done.of(Nemesis::DropReply);
    (struck >= 2 && done.replies_dropped == 0).then(|| format!("{struck} replies were to be dropped, and none was"))
}

/// Sets what it holds, however its block ends.
pub struct SetWhenDropped<'a>(pub &'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Watches until it is over, and gives the longest time in which something waited and nothing moved or could be seen.
fn standstill(deployment: &Deployment, over: &AtomicBool) -> Duration {
    let (mut longest, mut last, mut since) = (Duration::ZERO, Value::Null, Instant::now());
    while !over.load(Ordering::SeqCst) {
        let place = fastrand::usize(..deployment.places.len());
        let seen = deployment.url(place).and_then(|url| {
            let answer = Client::with_timeout(&url, LOOK_LIMIT).request("GET", "/metrics", &[], None).ok()?;
            (answer.status == 200).then(|| answer.json())
        });
        if let Some(metrics) = seen
            && (metrics["waiting"] == 0 || metrics != last)
        {
            longest = longest.max(since.elapsed());
            (last, since) = (metrics, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    longest.max(since.elapsed())
}

/// Waits until no event waits any more, for as long as something moves within that time.
pub fn drained(deployment: &Deployment, stuck_after: Duration) -> Result<(), String> {
    let (mut last, mut since) = (Value::Null, Instant::now());
    while since.elapsed() < stuck_after {
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
    Err(format!("nothing has moved for {} s, and events still wait: {last}", stuck_after.as_secs()))
}
