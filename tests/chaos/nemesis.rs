//! What goes wrong, and when: hosts and the store are killed, hosts stand still past their lease and go on, wires hold
//! back what was sent and let it pass later, consumer groups vanish.
//!
//! One thread with a timetable of its own seed. Everything that was broken is mended before [`torment`] returns.

use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::deployment::{Deployment, LEASE};

/// How often each fault comes; `None` for never.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// A random host is killed.
    pub kill_host: Option<Duration>,
    /// The store is killed and started again on its data.
    pub kill_store: Option<Duration>,
    /// A random host stands still for longer than its lease.
    pub stop_host: Option<Duration>,
    /// The wire of a random host holds everything back for longer than the host's lease.
    pub freeze_wire: Option<Duration>,
    /// The answers to a random host are cut off once.
    pub cut_wire: Option<Duration>,
    /// The consumer groups of all lanes are destroyed.
    pub destroy_groups: Option<Duration>,
    /// Everything between hosts and store is late by so much in each direction, which makes the moments between two
    /// steps long enough to be hit.
    pub delay_ms: u64,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillHost,
    KillStore,
    StopHost,
    Continue(usize),
    FreezeWire,
    Thaw(usize),
    CutWire,
    DestroyGroups,
}

/// Does all that for a time, mends everything, and says what was done.
pub fn torment(deployment: &Deployment, faults: &Faults, seed: u64, time: Duration) -> String {
    let (begun, mut rng) = (Instant::now(), Rng::with_seed(seed));
    let regular = [
        (faults.kill_host, Fault::KillHost),
        (faults.kill_store, Fault::KillStore),
        (faults.stop_host, Fault::StopHost),
        (faults.freeze_wire, Fault::FreezeWire),
        (faults.cut_wire, Fault::CutWire),
        (faults.destroy_groups, Fault::DestroyGroups),
    ];
    for wire in deployment.wires() {
        wire.delay(faults.delay_ms);
    }
    let mut due: Vec<(Instant, Fault)> =
        regular.iter().filter_map(|(every, fault)| Some((begun + jittered((*every)?, &mut rng), *fault))).collect();
    let mut counts = [0_u32; 6];
    while begun.elapsed() < time {
        due.sort_by_key(|(at, _)| *at);
        let Some((at, fault)) = due.first().copied() else { break };
        let at = at.min(begun + time);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if begun.elapsed() >= time {
            break;
        }
        due.remove(0);
        let longer_than_a_lease = LEASE.mul_f64(1.5 + rng.f64());
        if let Some(end) = strike(deployment, fault, &mut rng) {
            due.push((Instant::now() + longer_than_a_lease, end));
        }
        if let Some(n) =
            regular.iter().position(|(_, other)| std::mem::discriminant(other) == std::mem::discriminant(&fault))
        {
            counts[n] += 1;
            if let Some(every) = regular[n].0 {
                due.push((Instant::now() + jittered(every, &mut rng), fault));
            }
        }
    }
    mend(deployment);
    let [hosts, stores, stops, freezes, cuts, groups] = counts;
    format!(
        "{hosts} hosts and {stores} stores killed, {stops} hosts stopped, {freezes} wires frozen and {cuts} cut, \
         groups destroyed {groups} times"
    )
}

/// Does one thing; what undoes it later is given back. Faults of what a deployment does not have are none.
fn strike(deployment: &Deployment, fault: Fault, rng: &mut Rng) -> Option<Fault> {
    let n = rng.usize(..deployment.places.len());
    let place = &deployment.places[n];
    match fault {
        Fault::KillHost => place.kill(),
        Fault::KillStore => {
            deployment.store.crash();
        }
        Fault::StopHost => {
            place.running()?.stop();
            return Some(Fault::Continue(n));
        }
        Fault::Continue(n) => {
            if let Some(host) = deployment.places[n].running() {
                host.cont();
            }
        }
        Fault::FreezeWire => {
            place.wire.as_ref()?.freeze();
            return Some(Fault::Thaw(n));
        }
        Fault::Thaw(n) => deployment.places[n].wire.as_ref()?.thaw(),
        Fault::CutWire => place.wire.as_ref()?.cut_once(),
        Fault::DestroyGroups => {
            let redis = deployment.store.redis();
            let lanes: Vec<String> = redis.command(&["KEYS", "*:q:*"]).unwrap();
            for lane in lanes {
                let _: i64 = redis.command(&["XGROUP", "DESTROY", &lane, "es"]).unwrap();
            }
        }
    }
    None
}

fn mend(deployment: &Deployment) {
    for wire in deployment.wires() {
        wire.delay(0);
        wire.thaw();
    }
    for host in deployment.places.iter().filter_map(|place| place.running()) {
        host.cont();
    }
}

fn jittered(every: Duration, rng: &mut Rng) -> Duration {
    every.mul_f64(0.5 + rng.f64())
}
