//! The ledger run: a deployment under load and under attack, and the audit of what became of every event.
//!
//! Some tests inject all faults at once, others one kind of fault each. Each test prints its seed;
//! `EVENTSTREAM_CHAOS_SEED` sets it. Further tests check the audit: each switches on a defect that the host has on purpose
//! (a mutant), and the audit must fail. Two tests run at a time ([`run_permit`]). `cargo xtask chaos` runs the same program for
//! any time.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what goes wrong in a test is for the person who reads it"
)]

mod deployment;
mod injector;
mod loose_setting;
mod nemesis;
mod plugin_state;
mod producers;
mod report;
mod run;
mod run_permit;
mod stalled_clients;
mod store;
mod timetable;

use std::time::Duration;

use eventstream_tests::ledger::EventKind;
use eventstream_tests::store::Broker;
use nemesis::{EVERYDAY, EVERYDAY_SINGLE_HOST, Faults, Nemesis};
use producers::SenderLoad;
use report::ChaosReport;
use run::{ChaosRun, LYING_DISK, MIX};
use run_permit::RunPermit;

/// The length of a run with all faults.
const LONG: Duration = Duration::from_secs(30);
/// The length of a run with one kind of fault.
const SHORT: Duration = Duration::from_secs(4);
/// The length of a run in which each host must notice a changed setting.
const LOOSENED: Duration = Duration::from_secs(17);

fn seed() -> u64 {
    let Ok(text) = std::env::var("EVENTSTREAM_CHAOS_SEED") else { return fastrand::u64(..1_000_000) };
    text.parse().unwrap_or_else(|_| panic!("EVENTSTREAM_CHAOS_SEED must be a whole number, not {text:?}"))
}

#[track_caller]
fn assert_promises_kept(broker: Broker, faults: Faults, time: Duration) -> ChaosReport {
    let _turn = RunPermit::take();
    let load = SenderLoad { senders: 4, pause: Duration::from_millis(60), mix: MIX };
    let seed = seed();
    let report = run::run(&ChaosRun { broker, seed, time, load, faults, mutant: None }, |_| ());
    eprintln!("seed        {seed}\n{report}");
    let broken = &report.broken;
    assert!(broken.is_empty(), "{} promises were broken:\n{}", broken.len(), broken.join("\n"));
    report
}

/// Makes a test of each kind of fault: a short run in which the fault comes in quick succession.
macro_rules! each_fault_alone {
    ($broker:expr, $($test:ident: $nemesis:ident),+ $(,)?) => {
        $(#[test]
        fn $test() {
            const ALONE: Faults = Faults { every: &[(Nemesis::$nemesis, Duration::from_millis(1_200))], delay_ms: 0 };
            let _ = assert_promises_kept($broker, ALONE, SHORT);
        })+
    };
}

mod redis {
    use super::*;

    each_fault_alone! {
        Broker::Redis,
        every_event_has_one_end_though_hosts_are_killed: KillHost,
        every_event_has_one_end_though_the_store_is_killed: KillStore,
        every_event_has_one_end_though_hosts_stand_still: StopHost,
        every_event_has_one_end_though_hosts_run_out_of_memory: OomHost,
        every_event_has_one_end_though_wires_freeze: FreezeWire,
        every_event_has_one_end_though_wires_are_slow: DelayWire,
        every_event_has_one_end_though_wires_are_cut: CutWire,
        every_event_has_one_end_though_replies_are_dropped: DropReply,
        every_event_has_one_end_though_groups_vanish: DestroyGroups,
        every_event_has_one_end_though_scripts_vanish: FlushScripts,
        every_event_has_one_end_though_the_memory_is_full: FillMemory,
        every_event_has_one_end_though_the_power_is_cut: CutPower,
        every_event_has_one_end_though_the_disk_is_full: FillDisk,
        every_event_has_one_end_though_the_clock_jumps: JumpClock,
        every_event_has_one_end_though_its_plugin_is_replaced: SwapPlugin,
        every_event_has_one_end_though_a_plugin_multiplies_its_own: MultiplyEvents,
        every_event_has_one_end_though_a_host_lacks_its_plugin: LackPlugin,
        every_event_has_one_end_though_clients_stand_still: StopClients,
    }

    #[test]
    fn every_host_says_that_its_store_keeps_less_than_it_did() {
        const ONCE: Faults = Faults { every: &[(Nemesis::ConfigSet, Duration::from_secs(1))], delay_ms: 0 };
        let report = assert_promises_kept(Broker::Redis, ONCE, LOOSENED);
        assert!(report.done.settings_reported >= 3, "{report}");
    }
}

mod embedded {
    use super::*;

    each_fault_alone! {
        Broker::Embedded,
        every_event_has_one_end_though_the_host_is_killed: KillHost,
        every_event_has_one_end_though_the_host_stands_still: StopHost,
        every_event_has_one_end_though_the_host_runs_out_of_memory: OomHost,
        every_event_has_one_end_though_the_power_is_cut: CutPower,
        every_event_has_one_end_though_the_disk_is_full: FillDisk,
        every_event_has_one_end_though_the_clock_jumps: JumpClock,
        every_event_has_one_end_though_its_plugin_is_replaced: SwapPlugin,
        every_event_has_one_end_though_a_plugin_multiplies_its_own: MultiplyEvents,
        every_event_has_one_end_though_clients_stand_still: StopClients,
    }
}

#[test]
fn every_event_has_one_end_whatever_dies() {
    let _ = assert_promises_kept(Broker::Redis, EVERYDAY, LONG);
}

#[test]
fn every_event_has_one_end_though_the_only_host_dies_again_and_again() {
    let _ = assert_promises_kept(Broker::Embedded, EVERYDAY_SINGLE_HOST, LONG);
}

/// Runs a host with a mutant until the audit fails, and fails if ten runs do not reveal the mutant.
#[track_caller]
fn assert_caught(
    broker: Broker,
    mutant: &'static str,
    mix: &'static [(u32, EventKind)],
    faults: Faults,
    reported: &[&str],
) {
    let _turn = RunPermit::take();
    for round in 1..=10 {
        let load = SenderLoad { senders: 4, pause: Duration::from_millis(15), mix };
        let time = Duration::from_secs(8);
        let broken =
            run::run(&ChaosRun { broker, seed: seed(), time, load, faults, mutant: Some(mutant) }, |_| ()).broken;
        if broken.is_empty() {
            continue;
        }
        eprintln!("{mutant}: caught in round {round}:\n{}", broken.join("\n"));
        // The audit must fail for the right reason, and not because the deployment did not start.
        let is_reported = broken.iter().any(|line| reported.iter().any(|word| line.contains(word)));
        assert!(is_reported, "the mutant {mutant} broke something else: {broken:?}");
        return;
    }
    panic!("the mutant {mutant} was not caught");
}

/// Kills hosts so often that some die between any two steps.
const KILLS: Faults = Faults { every: &[(Nemesis::KillHost, Duration::from_millis(500))], delay_ms: 12 };

#[test]
fn acknowledging_before_the_outcome_is_stored_is_caught() {
    assert_caught(Broker::Redis, "ack-first", &[(3, EventKind::Ok), (1, EventKind::Flaky)], KILLS, &["has no end"]);
}

#[test]
fn settling_without_a_fence_is_caught() {
    const PAUSES: Faults = Faults {
        every: &[
            (Nemesis::StopHost, Duration::from_millis(1_500)),
            (Nemesis::FreezeWire, Duration::from_millis(1_500)),
        ],
        delay_ms: 2,
    };
    assert_caught(
        Broker::Redis,
        "no-fence",
        &[(3, EventKind::Coin), (1, EventKind::Parent(2))],
        PAUSES,
        &["ended twice", "the total", "nobody sent it"],
    );
}

#[test]
fn promoting_by_removing_first_is_caught() {
    assert_caught(
        Broker::Redis,
        "promote-removes-first",
        &[(1, EventKind::Flaky), (1, EventKind::Hopeless)],
        KILLS,
        &["has no end"],
    );
}

#[test]
fn a_group_made_at_the_end_of_its_lane_is_caught() {
    const GROUPS: Faults = Faults { every: &[(Nemesis::DestroyGroups, Duration::from_millis(1_500))], delay_ms: 2 };
    assert_caught(Broker::Redis, "group-at-end", &[(1, EventKind::Ok)], GROUPS, &["has no end", "nothing has moved"]);
}

#[test]
fn publishing_apart_from_the_settle_is_caught() {
    assert_caught(Broker::Redis, "publish-apart", &[(1, EventKind::Parent(3))], KILLS, &["nobody sent it"]);
}

/// Cuts the power only.
const POWER_CUTS: Faults = Faults { every: &[(Nemesis::CutPower, Duration::from_millis(1_500))], delay_ms: 0 };
/// What the audit says of a store that lost what it had confirmed.
const LOST: &[&str] = &["has no end", "gave", "did not start", "the total", "ended by itself", "nothing has moved"];

#[test]
fn a_redis_on_a_disk_that_does_not_sync_is_caught() {
    assert_caught(Broker::Redis, LYING_DISK, MIX, POWER_CUTS, LOST);
}

#[test]
fn an_embedded_store_on_a_disk_that_does_not_sync_is_caught() {
    assert_caught(Broker::Embedded, LYING_DISK, MIX, POWER_CUTS, LOST);
}
