//! What goes wrong, and when: hosts and the store are killed, hosts stand still past their lease and go on, wires hold
//! back what was sent and let it pass later, consumer groups and scripts vanish, the power of the store is cut, its memory
//! or disk is full for a while, its clock is wrong for a while, a plugin is replaced.
//!
//! One thread with a timetable of its own seed. Everything that was broken is mended before [`torment`] returns.

use std::fmt;
use std::time::{Duration, Instant};

use eventstream_tests::layout;
use eventstream_tests::store::Store;
use fastrand::Rng;

use crate::deployment::{Deployment, LEASE};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nemesis {
    /// A random host is killed.
    KillHost,
    /// The store is killed and started again on its data.
    KillStore,
    /// A random host stands still for longer than its lease.
    StopHost,
    /// The wire of a random host holds everything back for longer than the host's lease.
    FreezeWire,
    /// The answers to a random host are cut off once.
    CutWire,
    /// The consumer groups of all lanes are destroyed.
    DestroyGroups,
    /// The store forgets its scripts.
    FlushScripts,
    /// The store has no memory left for new data, for a while.
    FillMemory,
    /// The power of the store's machine is cut: what was not synced may be lost or torn.
    CutPower,
    /// The files of the store cannot grow, for a while.
    FillDisk,
    /// The clock of the store's machine jumps ahead, and after a while back.
    JumpClock,
    /// The plugin that handles nearly everything is replaced by another build.
    SwapPlugin,
}

impl Nemesis {
    /// How it is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KillHost => "kill-host",
            Self::KillStore => "kill-store",
            Self::StopHost => "stop-host",
            Self::FreezeWire => "freeze-wire",
            Self::CutWire => "cut-wire",
            Self::DestroyGroups => "destroy-groups",
            Self::FlushScripts => "flush-scripts",
            Self::FillMemory => "fill-memory",
            Self::CutPower => "cut-power",
            Self::FillDisk => "fill-disk",
            Self::JumpClock => "jump-clock",
            Self::SwapPlugin => "swap-plugin",
        }
    }
}

/// How often each fault comes; those that are not named never do.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Which, and how long from one to the next, on average.
    pub every: &'static [(Nemesis, Duration)],
    /// Everything between hosts and store is late by so much in each direction, which makes the moments between two
    /// steps long enough to be hit.
    pub delay_ms: u64,
}

impl Faults {
    /// How wrong the times that the store notes may be.
    pub fn clock_error(&self) -> Duration {
        let jumps = self.every.iter().any(|(nemesis, _)| *nemesis == Nemesis::JumpClock);
        if jumps { MAX_JUMP } else { Duration::ZERO }
    }
}

/// What the issue of every day is, in quick succession.
pub const EVERY_DAY: Faults = Faults {
    every: &[
        (Nemesis::KillHost, Duration::from_secs(2)),
        (Nemesis::KillStore, Duration::from_secs(8)),
        (Nemesis::StopHost, Duration::from_secs(9)),
        (Nemesis::FreezeWire, Duration::from_secs(7)),
        (Nemesis::CutWire, Duration::from_secs(5)),
        (Nemesis::DestroyGroups, Duration::from_secs(20)),
        (Nemesis::FlushScripts, Duration::from_secs(6)),
        (Nemesis::FillMemory, Duration::from_secs(15)),
        (Nemesis::CutPower, Duration::from_secs(11)),
        (Nemesis::FillDisk, Duration::from_secs(17)),
        (Nemesis::JumpClock, Duration::from_secs(13)),
        (Nemesis::SwapPlugin, Duration::from_secs(10)),
    ],
    delay_ms: 1,
};

/// The same for one host on a directory.
pub const EVERY_DAY_OF_ONE: Faults = Faults {
    every: &[
        (Nemesis::KillHost, Duration::from_secs(2)),
        (Nemesis::StopHost, Duration::from_secs(9)),
        (Nemesis::CutPower, Duration::from_secs(5)),
        (Nemesis::FillDisk, Duration::from_secs(11)),
        (Nemesis::JumpClock, Duration::from_secs(13)),
        (Nemesis::SwapPlugin, Duration::from_secs(10)),
    ],
    delay_ms: 0,
};

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Done {
    counts: Vec<(Nemesis, u32)>,
}

impl Done {
    /// How many faults there were.
    pub fn total(&self) -> u32 {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<String> =
            self.counts.iter().map(|(nemesis, count)| format!("{} {count}", nemesis.as_str())).collect();
        f.write_str(&told.join(", "))
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Strike(Nemesis),
    Continue(usize),
    Thaw(usize),
    GiveMemory,
    GiveRoom,
    SetClock,
}

/// Does all that for a time, mends everything, and says what was done.
pub fn torment(deployment: &Deployment, faults: &Faults, seed: u64, time: Duration) -> Done {
    let (begun, mut rng) = (Instant::now(), Rng::with_seed(seed));
    for wire in deployment.wires() {
        wire.delay(faults.delay_ms);
    }
    let mut done = Done { counts: faults.every.iter().map(|(nemesis, _)| (*nemesis, 0)).collect() };
    let first = |(nemesis, every): &(Nemesis, Duration)| (begun + jittered(*every, &mut rng), Fault::Strike(*nemesis));
    let mut due: Vec<(Instant, Fault)> = faults.every.iter().map(first).collect();
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
        let Fault::Strike(nemesis) = fault else { continue };
        if let Some(n) = faults.every.iter().position(|(other, _)| *other == nemesis) {
            done.counts[n].1 += 1;
            due.push((Instant::now() + jittered(faults.every[n].1, &mut rng), fault));
        }
    }
    mend(deployment);
    done
}

/// How far the clock jumps ahead at most. What is due later in the end must not look as if it were stuck.
const MAX_JUMP: Duration = Duration::from_secs(10);

/// Does one thing; what undoes it later is given back. Faults of what a deployment does not have are none. A Redis
/// that has no room on its disk is away already, and one that has just lost its power is spared until its log is whole:
/// until then it may execute half a transaction at its next start, which no client can help.
fn strike(deployment: &Deployment, fault: Fault, rng: &mut Rng) -> Option<Fault> {
    let n = rng.usize(..deployment.places.len());
    let place = &deployment.places[n];
    let is_away = matches!(deployment.store, Store::Redis(_)) && deployment.machine.disk_is_full();
    let spares_store = is_away || !deployment.log_is_whole();
    match fault {
        Fault::Strike(Nemesis::KillStore | Nemesis::CutPower | Nemesis::FillDisk) if spares_store => {}
        Fault::Strike(Nemesis::DestroyGroups | Nemesis::FlushScripts | Nemesis::FillMemory) if is_away => {}
        Fault::Strike(Nemesis::KillHost) => place.kill(),
        Fault::Strike(Nemesis::KillStore) => deployment.store.crash(),
        Fault::Strike(Nemesis::StopHost) => {
            place.running()?.stop();
            return Some(Fault::Continue(n));
        }
        Fault::Continue(n) => {
            if let Some(host) = deployment.places[n].running() {
                host.cont();
            }
        }
        Fault::Strike(Nemesis::FreezeWire) => {
            place.wire.as_ref()?.freeze();
            return Some(Fault::Thaw(n));
        }
        Fault::Thaw(n) => deployment.places[n].wire.as_ref()?.thaw(),
        Fault::Strike(Nemesis::CutWire) => place.wire.as_ref()?.cut_once(),
        Fault::Strike(Nemesis::DestroyGroups) => {
            let redis = deployment.store.redis();
            let lanes: Vec<String> = redis.command(&["KEYS", "*:q:*"]).unwrap();
            for lane in lanes {
                let _: i64 = redis.command(&["XGROUP", "DESTROY", &lane, "es"]).unwrap();
            }
        }
        Fault::Strike(Nemesis::FlushScripts) => {
            let _: String = deployment.store.redis().command(&["SCRIPT", "FLUSH"]).unwrap();
        }
        Fault::Strike(Nemesis::FillMemory) => {
            let _: String = deployment.store.redis().command(&["CONFIG", "SET", "maxmemory", "1mb"]).unwrap();
            return Some(Fault::GiveMemory);
        }
        // A server that is away is given it with the room on its disk.
        Fault::GiveMemory if is_away => {}
        Fault::GiveMemory => give_memory(deployment),
        Fault::Strike(Nemesis::CutPower) => deployment.cut_power(rng.fork()),
        Fault::Strike(Nemesis::FillDisk) => {
            deployment.machine.fill_disk(true);
            return Some(Fault::GiveRoom);
        }
        Fault::GiveRoom => {
            deployment.give_room();
            give_memory(deployment);
        }
        Fault::Strike(Nemesis::JumpClock) => {
            deployment.machine.move_clock(MAX_JUMP.mul_f64(rng.f64()));
            return Some(Fault::SetClock);
        }
        Fault::SetClock => deployment.machine.move_clock(Duration::ZERO),
        Fault::Strike(Nemesis::SwapPlugin) => {
            // A section without meaning makes another file, and another digest, of the same code.
            let mut component = std::fs::read(layout::guest("scripted")).unwrap();
            component.extend([0, 6, 1, b'n']);
            component.extend(rng.u32(..).to_le_bytes());
            deployment.plugins.write("quick.wasm", &component);
        }
    }
    None
}

fn give_memory(deployment: &Deployment) {
    if let Store::Redis(server) = &deployment.store {
        let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    }
}

fn mend(deployment: &Deployment) {
    for wire in deployment.wires() {
        wire.delay(0);
        wire.thaw();
    }
    for host in deployment.places.iter().filter_map(|place| place.running()) {
        host.cont();
    }
    deployment.machine.move_clock(Duration::ZERO);
    deployment.give_room();
    give_memory(deployment);
}

fn jittered(every: Duration, rng: &mut Rng) -> Duration {
    every.mul_f64(0.5 + rng.f64())
}
