//! Injects the faults of a timetable, and ends each after its time.
//!
//! Some faults are skipped while another one lasts; [`FaultInjector::reason_to_skip`] names each case and its reason.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use eventstream_tests::layout;
use eventstream_tests::memory::MemoryShortage;
use eventstream_tests::store::Store;
use fastrand::Rng;

use crate::deployment::{Deployment, LEASE, PLUGINS};
use crate::loose_setting::{LooseSetting, NOTICED_WITHIN};
use crate::nemesis::{FaultCounts, Faults, MAX_JUMP, Nemesis};
use crate::stalled_clients::StalledClients;
use crate::timetable::{ScheduledFault, timetable};

/// The longest delay of a slow network, in milliseconds.
const SLOW_WIRE_MS: u64 = 150;
/// The reply that is dropped belongs to one of this many next scripts of a host.
const REPLY_DROPPED_AFTER: usize = 12;
/// The memory that is left to a host before it gets no more.
const LEFT_BYTES: std::ops::Range<u64> = 16 * 1_024..1_024 * 1_024;

/// The key that fills the memory of Redis, and its size. The history of ended events may take a quarter of the limit
/// and is trimmed beyond that. The audit needs all of it, so the limit leaves room for the history of a long run.
const FILLER: &str = "filler";
const FILLED_BYTES: u64 = 256 * 1_024 * 1_024;

/// What ends a fault.
enum Repair {
    Continue(usize),
    EndShortage(MemoryShortage),
    Thaw(usize),
    EndDelay(usize),
    FreeMemory,
    RestoreSetting(LooseSetting, Vec<String>),
    FreeDisk,
    SetClock,
    GivePlugins(usize),
    ResumeClients(StalledClients),
}

/// The state of a run.
struct FaultInjector<'a> {
    deployment: &'a Deployment,
    usual_delay_ms: u64,
    memory_is_full: bool,
    loose_setting: Option<LooseSetting>,
    /// The host that lacks a plugin.
    slot_without_plugin: Option<usize>,
    /// How many hosts get no more memory.
    hosts_without_memory: usize,
    done: FaultCounts,
}

/// Injects faults for a time, ends those that last, and returns how many there were.
pub fn inject_faults(deployment: &Deployment, faults: &Faults, seed: u64, time: Duration) -> FaultCounts {
    let begun = Instant::now();
    for wire in deployment.wires() {
        wire.delay(faults.delay_ms);
    }
    let replies_dropped = || deployment.wires().map(|wire| wire.answers_lost()).sum::<usize>();
    let before = replies_dropped();
    let (done, usual_delay_ms) = (FaultCounts::none_of(faults), faults.delay_ms);
    let mut injector = FaultInjector {
        deployment,
        usual_delay_ms,
        memory_is_full: false,
        loose_setting: None,
        slot_without_plugin: None,
        hosts_without_memory: 0,
        done,
    };
    let mut due_faults = timetable(faults, seed, time, deployment.places.len()).into_iter().peekable();
    let mut repairs: Vec<(Duration, Repair)> = Vec::new();
    loop {
        repairs.sort_by_key(|(at, _)| *at);
        let next_repair = repairs.first().map(|(at, _)| *at).filter(|at| *at < time);
        let next_fault = due_faults.peek().map(|fault| fault.at);
        let Some(at) = next_repair.into_iter().chain(next_fault).min() else { break };
        std::thread::sleep(at.saturating_sub(begun.elapsed()));
        if next_repair == Some(at) {
            injector.repair(repairs.remove(0).1);
        } else if let Some(fault) = due_faults.next()
            && let Some((lasts, repair)) = injector.inject(&fault)
        {
            repairs.push((at + lasts, repair));
        }
    }
    std::thread::sleep(time.saturating_sub(begun.elapsed()));
    injector.end_all(repairs);
    let mut done = injector.done;
    done.replies_dropped = u32::try_from(replies_dropped() - before).unwrap_or(u32::MAX);
    done
}

impl FaultInjector<'_> {
    /// Injects one fault. Returns what ends it and after which time, unless it is over at once. A fault of something that
    /// the deployment does not have does nothing.
    fn inject(&mut self, fault: &ScheduledFault) -> Option<(Duration, Repair)> {
        if self.reason_to_skip(fault.nemesis, fault.place).is_some() {
            return None;
        }
        self.done.count(fault.nemesis);
        let mut rng = Rng::with_seed(fault.seed);
        let longer_than_a_lease = LEASE.mul_f64(0.5 + fault.lasts);
        let (deployment, n) = (self.deployment, fault.place);
        let place = &deployment.places[n];
        let repair = match fault.nemesis {
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
                Repair::Continue(n)
            }
            Nemesis::OomHost => {
                let shortage = place.starve(rng.u64(LEFT_BYTES))?;
                self.hosts_without_memory += 1;
                Repair::EndShortage(shortage)
            }
            Nemesis::FreezeWire => {
                place.wire.as_ref()?.freeze();
                Repair::Thaw(n)
            }
            Nemesis::DelayWire => {
                place.wire.as_ref()?.delay(rng.u64(SLOW_WIRE_MS / 10..SLOW_WIRE_MS));
                Repair::EndDelay(n)
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
                // The memory may be full already.
                let _: String = redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
                let _: u64 = redis.command(&["SETRANGE", FILLER, &(FILLED_BYTES - 1).to_string(), "x"]).unwrap();
                let _: String = redis.command(&["CONFIG", "SET", "maxmemory", &FILLED_BYTES.to_string()]).unwrap();
                self.memory_is_full = true;
                Repair::FreeMemory
            }
            Nemesis::ConfigSet => {
                let loose_setting = LooseSetting::pick(fault.seed);
                loose_setting.set(deployment.store.redis());
                self.loose_setting = Some(loose_setting);
                let asked = (0..deployment.places.len()).filter_map(|place| deployment.url(place)).collect();
                return Some((
                    NOTICED_WITHIN.mul_f64(0.9 + fault.lasts / 10.0),
                    Repair::RestoreSetting(loose_setting, asked),
                ));
            }
            Nemesis::CutPower => {
                deployment.cut_power(rng);
                return None;
            }
            Nemesis::FillDisk => {
                deployment.machine.fill_disk(true);
                Repair::FreeDisk
            }
            Nemesis::JumpClock => {
                deployment.machine.move_clock(MAX_JUMP.mul_f64(rng.f64()));
                Repair::SetClock
            }
            Nemesis::SwapPlugin => {
                // A custom section gives the same code another digest.
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
                self.slot_without_plugin = Some(n);
                PLUGINS
                    .into_iter()
                    .filter(|name| *name == "quick" || rng.bool())
                    .for_each(|name| place.take_plugin(name));
                if rng.bool() {
                    place.kill();
                }
                Repair::GivePlugins(n)
            }
            Nemesis::StopClients => {
                let stalled = StalledClients::begin(place.running()?.url());
                deployment.clients_stand_still.store(true, Ordering::SeqCst);
                Repair::ResumeClients(stalled)
            }
        };
        Some((longer_than_a_lease, repair))
    }

    /// Why a fault is skipped now: no host could prevent the loss, the fault cannot be injected, or nothing would be
    /// left to observe. A skipped fault does not come later.
    fn reason_to_skip(&self, nemesis: Nemesis, n: usize) -> Option<&'static str> {
        use Nemesis::*;

        let deployment = self.deployment;
        let is_loose = self.loose_setting.is_some();
        let is_refused = || self.loose_setting.is_some_and(LooseSetting::is_refused);
        let redis_has_ended = || matches!(deployment.store, Store::Redis(_)) && deployment.machine.disk_is_full();
        let all_run = || deployment.places.iter().all(|place| place.running().is_some());
        let is_command = matches!(nemesis, DestroyGroups | FlushScripts | FillMemory | ConfigSet);
        let stops_store = matches!(nemesis, KillStore | CutPower | FillDisk);
        let stops_host = matches!(nemesis, KillHost | OomHost);
        let reasons = [
            ((is_command || stops_store) && redis_has_ended(), "Redis has ended on its full disk"),
            (stops_store && is_loose, "under a loose setting Redis loses accepted events when it ends"),
            (
                (stops_store || nemesis == ConfigSet) && !deployment.log_is_whole(),
                "Redis has not rewritten the log of its last start, whose end may be half a transaction",
            ),
            (nemesis == FillMemory && is_loose, "under a loose setting Redis may evict accepted events"),
            (nemesis == ConfigSet && self.memory_is_full, "under a loose setting Redis may evict accepted events"),
            (nemesis == ConfigSet && is_loose, "another setting is loose already"),
            (stops_host && is_refused(), "no host starts on such a store, so none would be left to report the setting"),
            (
                stops_host && self.slot_without_plugin.is_some_and(|lacking| lacking != n),
                "a host lacks a plugin, and the hosts that have it must handle its events",
            ),
            (nemesis == LackPlugin && !all_run(), "all hosts must run, so that one is left with the plugin"),
            (nemesis == LackPlugin && self.slot_without_plugin.is_some(), "another host lacks a plugin"),
            (
                nemesis == LackPlugin && self.hosts_without_memory > 0,
                "a host without memory may end, and have the only plugin",
            ),
            (nemesis == LackPlugin && is_refused(), "a host that ends does not start again on such a store"),
        ];
        reasons.into_iter().find_map(|(applies, reason)| applies.then_some(reason))
    }

    fn repair(&mut self, repair: Repair) {
        let deployment = self.deployment;
        match repair {
            Repair::Continue(n) => {
                if let Some(host) = deployment.places[n].running() {
                    host.cont();
                }
            }
            Repair::EndShortage(shortage) => {
                self.hosts_without_memory -= 1;
                self.done.out_of_memory += u32::from(shortage.end());
            }
            Repair::Thaw(n) => {
                if let Some(wire) = &deployment.places[n].wire {
                    wire.thaw();
                }
            }
            Repair::EndDelay(n) => {
                if let Some(wire) = &deployment.places[n].wire {
                    wire.delay(self.usual_delay_ms);
                }
            }
            // A server that has ended gets memory together with room on its disk.
            Repair::FreeMemory if deployment.machine.disk_is_full() => {}
            Repair::FreeMemory => self.free_memory(),
            Repair::RestoreSetting(loose_setting, asked) => {
                // Hosts that have ended meanwhile are not asked.
                let is_there =
                    |url: &String| (0..deployment.places.len()).any(|n| deployment.url(n).as_ref() == Some(url));
                for url in asked.into_iter().filter(is_there) {
                    match loose_setting.wait_for_report(&url) {
                        Ok(is_reported) => self.done.settings_reported += u32::from(is_reported),
                        Err(unaware) => self.done.broken.push(unaware),
                    }
                }
                self.restore_setting();
            }
            Repair::FreeDisk => {
                deployment.free_disk();
                self.free_memory();
            }
            Repair::SetClock => deployment.machine.move_clock(Duration::ZERO),
            Repair::GivePlugins(n) => {
                deployment.places[n].give_plugins();
                self.slot_without_plugin = None;
            }
            Repair::ResumeClients(stalled) => {
                drop(stalled);
                deployment.clients_stand_still.store(false, Ordering::SeqCst);
            }
        }
    }

    fn free_memory(&mut self) {
        self.memory_is_full = false;
        if let Store::Redis(server) = &self.deployment.store {
            let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
            let _: u64 = server.command(&["DEL", FILLER]).unwrap();
        }
    }

    fn restore_setting(&mut self) {
        if let (Store::Redis(server), Some(loose_setting)) = (&self.deployment.store, self.loose_setting.take()) {
            loose_setting.restore(server);
        }
    }

    /// Ends all faults that still last.
    fn end_all(&mut self, repairs: Vec<(Duration, Repair)>) {
        for (_, repair) in repairs {
            if let Repair::EndShortage(_) = repair {
                self.repair(repair);
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
        deployment.free_disk();
        self.free_memory();
        self.restore_setting();
    }
}
