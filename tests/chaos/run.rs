//! One run: a deployment under load and faults, its repair, and the audit of what became of every event.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use eventstream_tests::client::Client;
use eventstream_tests::eventually::{PATIENCE, eventually, eventually_within, try_eventually};
use eventstream_tests::final_state::FinalState;
use eventstream_tests::ledger::{EventKind, Ledger};
use eventstream_tests::machine::Machine;
use eventstream_tests::store::Broker;
use serde_json::Value;

use crate::deployment::{Deployment, MAX_ATTEMPTS};
use crate::injector::inject_faults;
use crate::nemesis::{FaultCounts, Faults, Nemesis};
use crate::producers::{self, SenderLoad};
use crate::report::ChaosReport;
use crate::store;

/// How long a repaired deployment may go without progress, on a busy machine.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);
/// The same for a deployment with a mutant.
const MUTANT_STUCK_AFTER: Duration = Duration::from_secs(20);
/// How long an answer may take before the host counts as away.
const LOOK_LIMIT: Duration = Duration::from_millis(500);

/// Events of every kind.
pub const MIX: &[(u32, EventKind)] = &[
    (40, EventKind::Ok),
    (12, EventKind::Flaky),
    (20, EventKind::Coin),
    (4, EventKind::Hopeless),
    (6, EventKind::Rejected),
    (2, EventKind::Slow),
    (12, EventKind::Parent(3)),
    (2, EventKind::Unhandled),
];

/// The name of a disk that confirms every sync without carrying it out.
pub const LYING_DISK: &str = "lying-disk";

/// The parameters of a run.
pub struct ChaosRun {
    /// The store.
    pub broker: Broker,
    /// The seed of the load and of the timetable of faults.
    pub seed: u64,
    /// How long faults are injected.
    pub time: Duration,
    /// The load.
    pub load: SenderLoad,
    /// The faults.
    pub faults: Faults,
    /// The mutant of the host, or [`LYING_DISK`], if a guarantee is broken on purpose.
    pub mutant: Option<&'static str>,
}

/// Runs, repairs, waits until every event has ended, and audits. If a promise was broken, calls `keep` with the deployment
/// before it ends.
pub fn run(run: &ChaosRun, keep: impl FnOnce(&Deployment)) -> ChaosReport {
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
        // Stops the threads even if this one panics.
        let _ends = (SetWhenDropped(&stop), SetWhenDropped(&over));
        let senders = (0..run.load.senders).map(|number| {
            let (deployment, ledger, stop) = (&deployment, &ledger, &stop);
            threads.spawn(move || producers::send(number, run.seed, &run.load, deployment, ledger, stop))
        });
        let senders: Vec<_> = senders.collect();
        threads.spawn(|| *longest.lock().unwrap_or_else(PoisonError::into_inner) = standstill(&deployment, &over));
        let done = inject_faults(&deployment, &run.faults, run.seed, run.time);
        stop.store(true, Ordering::SeqCst);
        let healed = Instant::now();
        // A request in flight is still repeated until it is answered.
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
        deployment.client().ok_or("no host serves").map(|client| FinalState {
            processed: client.processed(),
            failed: client.failed(),
            metrics: client.metrics(),
            max_attempts: MAX_ATTEMPTS,
            clock_error_ms: run.faults.clock_error().as_secs_f64() * 1_000.0,
        })
    });
    let observed = observed.unwrap_or_else(|reason| {
        broken.push(format!("the ends cannot be read: {reason}"));
        FinalState::default()
    });
    broken.extend(ledger.audit(&observed));
    if broken.is_empty() {
        broken.extend(store::leftovers(&deployment, &observed, ledger.len()));
    }
    if !broken.is_empty() {
        keep(&deployment);
    }
    let longest_standstill = longest.into_inner().unwrap_or_else(PoisonError::into_inner);
    ChaosReport {
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

fn total(observed: &FinalState, name: &str) -> u64 {
    observed.metrics[name].as_u64().unwrap_or_default()
}

/// Reports a fault that never took effect, which makes a run of it worthless: replies that were ordered to be dropped and
/// were not. A shortage of memory is exempt, since a host may need no memory for a while.
fn without_effect(done: &FaultCounts) -> Option<String> {
    let struck = done.of(Nemesis::DropReply);
    (struck >= 2 && done.replies_dropped == 0).then(|| format!("{struck} replies were to be dropped, and none was"))
}

/// Sets a flag when it is dropped.
pub struct SetWhenDropped<'a>(pub &'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Watches until the run is over. Returns the longest time in which events waited and no progress could be seen.
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

/// Waits until no event waits any more. Fails if there is no progress for `stuck_after`.
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
