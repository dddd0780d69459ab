//! Carries a timetable of faults out, and mends what was broken.
//!
//! Faults that would together take what nothing could save are kept apart. A store is spared that has no room on its disk,
//! that has just lost its power and whose log is not whole again (until then it may execute half a transaction at its
//! next start, which no client can help), or whose settings keep nothing. While one host lacks a plugin the others are not
//! killed, or nobody might be left who handles its events. A fault that is spared is not made up for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use eventstream_tests::layout;
use eventstream_tests::memory::Starved;
use eventstream_tests::store::Store;
use fastrand::Rng;

use crate::deployment::{Deployment, LEASE, PLUGINS};
use crate::loosened::{Loosened, NOTICED_WITHIN};
use crate::nemesis::{Done, Faults, MAX_JUMP, Nemesis};
use crate::stalled::Stalled;
use crate::timetable::{Strike, timetable};

/// How late everything on a slow wire is, in milliseconds: at most so much.
const SLOW_WIRE_MS: u64 = 150;
/// Which of the next scripts of a host is the one whose reply is dropped: at most this one.
const REPLY_DROPPED_AFTER: usize = 12;
/// The memory that is left to a host that finds no more.
const LEFT_BYTES: std::ops::Range<u64> = 16 * 1_024..1_024 * 1_024;

/// The key that fills the memory of Redis up, and its size. A limit below what the events take would do as well, but history
/// has a share of the limit only, and the audit wants all of it.
const FILLER: &str = "filler";
const FILLED_BYTES: u64 = 64 * 1_024 * 1_024;

/// What undoes a fault.
enum Undo {
    Continue(usize),
    Feed(Starved),
    Thaw(usize),
    Hasten(usize),
    GiveMemory,
    Tighten(Loosened, Vec<String>),
    GiveRoom,
    SetClock,
    GivePlugins(usize),
    WakeClients(Stalled),
}

/// A run of faults under way.
struct Torment<'a> {
    deployment: &'a Deployment,
    usual_delay_ms: u64,
    memory_is_full: bool,
    loosened: Option<Loosened>,
    /// The host that lacks a plugin.
    lacking: Option<usize>,
    /// How many hosts find no more memory.
    starved: usize,
    done: Done,
}

/// Does all that for a time, mends everything, and says what was done.
pub fn torment(deployment: &Deployment, faults: &Faults, seed: u64, time: Duration) -> Done {
    let begun = Instant::now();
    for wire in deployment.wires() {
        wire.delay(faults.delay_ms);
    }
    let replies_dropped = || deployment.wires().map(|wire| wire.answers_lost()).sum::<usize>();
    let before = replies_dropped();
    let (done, usual_delay_ms) = (Done::none_of(faults), faults.delay_ms);
    let mut torment =
        Torment { deployment, usual_delay_ms, memory_is_full: false, loosened: None, lacking: None, starved: 0, done };
    let mut strikes = timetable(faults, seed, time, deployment.places.len()).into_iter().peekable();
    let mut undone: Vec<(Duration, Undo)> = Vec::new();
    loop {
        undone.sort_by_key(|(at, _)| *at);
        let next_undo = undone.first().map(|(at, _)| *at).filter(|at| *at < time);
        let next_strike = strikes.peek().map(|strike| strike.at);
        let Some(at) = next_undo.into_iter().chain(next_strike).min() else { break };
        std::thread::sleep(at.saturating_sub(begun.elapsed()));
        if next_undo == Some(at) {
            torment.undo(undone.remove(0).1);
        } else if let Some(strike) = strikes.next()
            && let Some((lasts, undo)) = torment.strike(&strike)
        {
            undone.push((at + lasts, undo));
        }
    }
    std::thread::sleep(time.saturating_sub(begun.elapsed()));
    torment.mend(undone);
    let mut done = torment.done;
    done.replies_dropped = u32::try_from(replies_dropped() - before).unwrap_or(u32::MAX);
    done
}

impl Torment<'_> {
    /// Does one thing; what undoes it, and after which time, is given back. Faults of what a deployment does not have are
    /// none.
    fn strike(&mut self, strike: &Strike) -> Option<(Duration, Undo)> {
        if self.is_spared(strike.nemesis, strike.place) {
            return None;
        }
        self.done.count(strike.nemesis);
        let mut rng = Rng::with_seed(strike.seed);
        let longer_than_a_lease = LEASE.mul_f64(0.5 + strike.lasts);
        let (deployment, n) = (self.deployment, strike.place);
        let place = &deployment.places[n];
        let undo = match strike.nemesis {
            Nemesis::KillHost => {
                place.kill();
                return None;
            }
            Nemesis::KillStore => {
                deployment.store.crash();
                return None;
            }
            Nemesis::StopHost => {
                place.running()?.stop();
                Undo::Continue(n)
            }
            Nemesis::OomHost => {
                let starved = place.starve(rng.u64(LEFT_BYTES))?;
                self.starved += 1;
                Undo::Feed(starved)
            }
            Nemesis::FreezeWire => {
                place.wire.as_ref()?.freeze();
                Undo::Thaw(n)
            }
            Nemesis::DelayWire => {
                place.wire.as_ref()?.delay(rng.u64(SLOW_WIRE_MS / 10..SLOW_WIRE_MS));
                Undo::Hasten(n)
            }
            Nemesis::CutWire => {
                place.wire.as_ref()?.cut_once();
                return None;
            }
            Nemesis::DropReply => {
                place.wire.as_ref()?.drop_reply_to("evalsha", rng.usize(1..=REPLY_DROPPED_AFTER));
                return None;
            }
            Nemesis::DestroyGroups => {
                let redis = deployment.store.redis();
                let lanes: Vec<String> = redis.command(&["KEYS", "*:q:*"]).unwrap();
                for lane in lanes {
                    let _: i64 = redis.command(&["XGROUP", "DESTROY", &lane, "es"]).unwrap();
                }
                return None;
            }
            Nemesis::FlushScripts => {
                let _: String = deployment.store.redis().command(&["SCRIPT", "FLUSH"]).unwrap();
                return None;
            }
            Nemesis::FillMemory => {
                let redis = deployment.store.redis();
                // It may be full already.
                let _: String = redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
                let _: u64 = redis.command(&["SETRANGE", FILLER, &(FILLED_BYTES - 1).to_string(), "x"]).unwrap();
                let _: String = redis.command(&["CONFIG", "SET", "maxmemory", &FILLED_BYTES.to_string()]).unwrap();
                self.memory_is_full = true;
                Undo::GiveMemory
            }
            Nemesis::ConfigSet => {
                let loosened = Loosened::pick(strike.seed);
                loosened.set(deployment.store.redis());
                self.loosened = Some(loosened);
                let asked = (0..deployment.places.len()).filter_map(|place| deployment.url(place)).collect();
                return Some((NOTICED_WITHIN.mul_f64(0.9 + strike.lasts / 10.0), Undo::Tighten(loosened, asked)));
            }
            Nemesis::CutPower => {
                deployment.cut_power(rng);
                return None;
            }
            Nemesis::FillDisk => {
                deployment.machine.fill_disk(true);
                Undo::GiveRoom
            }
            Nemesis::JumpClock => {
                deployment.machine.move_clock(MAX_JUMP.mul_f64(rng.f64()));
                Undo::SetClock
            }
            Nemesis::SwapPlugin => {
                // A section without meaning makes another file, and another digest, of the same code.
                let mut component = std::fs::read(layout::guest("scripted")).unwrap();
                component.extend([0, 6, 1, b'n']);
                component.extend(rng.u32(..).to_le_bytes());
                for place in &deployment.places {
                    place.swap_plugin("quick", &component);
                }
                return None;
            }
            Nemesis::MultiplyEvents => {
                deployment.multiply();
                return None;
            }
            Nemesis::LackPlugin => {
                self.lacking = Some(n);
                PLUGINS
                    .into_iter()
                    .filter(|name| *name == "quick" || rng.bool())
                    .for_each(|name| place.take_plugin(name));
                if rng.bool() {
                    place.kill();
                }
                Undo::GivePlugins(n)
            }
            Nemesis::StopClients => {
                let stalled = Stalled::begin(place.running()?.url());
                deployment.clients_stand_still.store(true, Ordering::SeqCst);
                Undo::WakeClients(stalled)
            }
        };
        Some((longer_than_a_lease, undo))
    }

    fn is_spared(&self, nemesis: Nemesis, n: usize) -> bool {
        let deployment = self.deployment;
        let is_away = matches!(deployment.store, Store::Redis(_)) && deployment.machine.disk_is_full();
        match nemesis {
            Nemesis::KillStore | Nemesis::CutPower | Nemesis::FillDisk => {
                is_away || self.loosened.is_some() || !deployment.log_is_whole()
            }
            Nemesis::DestroyGroups | Nemesis::FlushScripts => is_away,
            // What is evicted for want of memory is lost.
            Nemesis::FillMemory => is_away || self.loosened.is_some(),
            Nemesis::ConfigSet => {
                is_away || self.memory_is_full || self.loosened.is_some() || !deployment.log_is_whole()
            }
            // None would start again, and none be left to ask.
            Nemesis::KillHost | Nemesis::OomHost => {
                self.loosened.is_some_and(Loosened::is_refused) || self.lacking.is_some_and(|lacking| lacking != n)
            }
            Nemesis::LackPlugin => {
                let all_run = deployment.places.iter().all(|place| place.running().is_some());
                !all_run
                    || self.lacking.is_some()
                    || self.starved > 0
                    || self.loosened.is_some_and(Loosened::is_refused)
            }
            _ => false,
        }
    }

    fn undo(&mut self, undo: Undo) {
        let deployment = self.deployment;
        match undo {
            Undo::Continue(n) => {
                if let Some(host) = deployment.places[n].running() {
                    host.cont();
                }
            }
            Undo::Feed(starved) => {
                self.starved -= 1;
                self.done.out_of_memory += u32::from(starved.feed());
            }
            Undo::Thaw(n) => {
                if let Some(wire) = &deployment.places[n].wire {
                    wire.thaw();
                }
            }
            Undo::Hasten(n) => {
                if let Some(wire) = &deployment.places[n].wire {
                    wire.delay(self.usual_delay_ms);
                }
            }
            // A server that is away is given it with the room on its disk.
            Undo::GiveMemory if deployment.machine.disk_is_full() => {}
            Undo::GiveMemory => self.give_memory(),
            Undo::Tighten(loosened, asked) => {
                // Those that have ended in the meantime are not asked.
                let is_there =
                    |url: &String| (0..deployment.places.len()).any(|n| deployment.url(n).as_ref() == Some(url));
                for url in asked.into_iter().filter(is_there) {
                    match loosened.is_told(&url) {
                        Ok(is_told) => self.done.settings_told += u32::from(is_told),
                        Err(unaware) => self.done.broken.push(unaware),
                    }
                }
                self.tighten();
            }
            Undo::GiveRoom => {
                deployment.give_room();
                self.give_memory();
            }
            Undo::SetClock => deployment.machine.move_clock(Duration::ZERO),
            Undo::GivePlugins(n) => {
                deployment.places[n].give_plugins();
                self.lacking = None;
            }
            Undo::WakeClients(stalled) => {
                drop(stalled);
                deployment.clients_stand_still.store(false, Ordering::SeqCst);
            }
        }
    }

    fn give_memory(&mut self) {
        self.memory_is_full = false;
        if let Store::Redis(server) = &self.deployment.store {
            let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
            let _: u64 = server.command(&["DEL", FILLER]).unwrap();
        }
    }

    fn tighten(&mut self) {
        if let (Store::Redis(server), Some(loosened)) = (&self.deployment.store, self.loosened.take()) {
            loosened.tighten(server);
        }
    }

    /// Ends whatever has not ended yet.
    fn mend(&mut self, undone: Vec<(Duration, Undo)>) {
        for (_, undo) in undone {
            if let Undo::Feed(_) = undo {
                self.undo(undo);
            }
        }
        let deployment = self.deployment;
        deployment.clients_stand_still.store(false, Ordering::SeqCst);
        deployment.places.iter().for_each(|place| place.give_plugins());
        for wire in deployment.wires() {
            wire.keep_replies();
            wire.delay(0);
            wire.thaw();
        }
        for host in deployment.places.iter().filter_map(|place| place.running()) {
            host.cont();
        }
        deployment.machine.move_clock(Duration::ZERO);
        deployment.give_room();
        self.give_memory();
        self.tighten();
    }
}
