//! The ledger run: a deployment under load and under attack, and the audit of what became of every event.
//!
//! All faults at once on each broker, and each for itself; `EVENTSTREAM_CHAOS_SEED` sets the seed, which is printed. The
//! other tests show that the run finds what it is there to find: each switches on one fault that was put
//! into the host on purpose and must see the audit fail. Two tests run at a time ([`turn`]).
//! `cargo xtask chaos` makes the same runs as a program, for as long as one likes.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what goes wrong in a test is for the person who reads it"
)]

mod deployment;
mod loosened;
mod nemesis;
mod producers;
mod report;
mod run;
mod stalled;
mod state;
mod store;
mod timetable;
mod torment;
mod turn;

use std::time::Duration;

use eventstream_tests::ledger::Kind;
use eventstream_tests::store::Broker;
use nemesis::{EVERY_DAY, EVERY_DAY_OF_ONE, Faults, Nemesis};
use producers::Load;
use report::Report;
use run::{LYING_DISK, MIX, Run};
use turn::Turn;

/// How long all faults together go on.
const LONG: Duration = Duration::from_secs(30);
/// How long one fault does.
const SHORT: Duration = Duration::from_secs(4);
/// How long it takes until each host must have seen that a setting was changed.
const LOOSENED: Duration = Duration::from_secs(17);

fn seed() -> u64 {
    let Ok(text) = std::env::var("EVENTSTREAM_CHAOS_SEED") else { return fastrand::u64(..1_000_000) };
    text.parse().unwrap_or_else(|_| panic!("EVENTSTREAM_CHAOS_SEED must be a whole number, not {text:?}"))
}

#[track_caller]
fn every_promise_is_kept(broker: Broker, faults: Faults, time: Duration) -> Report {
    let _turn = Turn::take();
    let load = Load { senders: 4, pause: Duration::from_millis(60), mix: MIX };
    let seed = seed();
    let report = run::run(&Run { broker, seed, time, load, faults, mutant: None }, |_| ());
    eprintln!("seed        {seed}\n{report}");
    let broken = &report.broken;
    assert!(broken.is_empty(), "{} promises were broken:\n{}", broken.len(), broken.join("\n"));
    report
}

/// Runs each fault for itself, shortly and in quick succession.
macro_rules! each_fault_alone {
    ($broker:expr, $($test:ident: $nemesis:ident),+ $(,)?) => {
        $(#[test]
        fn $test() {
            const ALONE: Faults = Faults { every: &[(Nemesis::$nemesis, Duration::from_millis(1_200))], delay_ms: 0 };
            let _ = every_promise_is_kept($broker, ALONE, SHORT);
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
        let report = every_promise_is_kept(Broker::Redis, ONCE, LOOSENED);
        assert!(report.done.settings_told >= 3, "{report}");
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
    let _ = every_promise_is_kept(Broker::Redis, EVERY_DAY, LONG);
}

#[test]
fn every_event_has_one_end_though_the_only_host_dies_again_and_again() {
    let _ = every_promise_is_kept(Broker::Embedded, EVERY_DAY_OF_ONE, LONG);
}

/// Runs with a fault in the host until the audit fails, a few times at most, and checks that it does.
#[track_caller]
fn is_caught(broker: Broker, mutant: &'static str, mix: &'static [(u32, Kind)], faults: Faults, told: &[&str]) {
    let _turn = Turn::take();
    for round in 1..=10 {
        let load = Load { senders: 4, pause: Duration::from_millis(15), mix };
        let time = Duration::from_secs(8);
        let broken = run::run(&Run { broker, seed: seed(), time, load, faults, mutant: Some(mutant) }, |_| ()).broken;
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
const KILLS: Faults = Faults { every: &[(Nemesis::KillHost, Duration::from_millis(500))], delay_ms: 12 };

#[test]
fn acknowledging_before_the_outcome_is_stored_is_caught() {
    is_caught(Broker::Redis, "ack-first", &[(3, Kind::Ok), (1, Kind::Flaky)], KILLS, &["has no end"]);
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
    is_caught(
        Broker::Redis,
        "no-fence",
        &[(3, Kind::Coin), (1, Kind::Parent(2))],
        PAUSES,
        &["ended twice", "the total", "nobody sent it"],
    );
}

#[test]
fn promoting_by_removing_first_is_caught() {
    is_caught(Broker::Redis, "promote-removes-first", &[(1, Kind::Flaky), (1, Kind::Hopeless)], KILLS, &["has no end"]);
}

#[test]
fn a_group_made_at_the_end_of_its_lane_is_caught() {
    const GROUPS: Faults = Faults { every: &[(Nemesis::DestroyGroups, Duration::from_millis(1_500))], delay_ms: 2 };
    is_caught(Broker::Redis, "group-at-end", &[(1, Kind::Ok)], GROUPS, &["has no end", "nothing has moved"]);
}

#[test]
fn publishing_apart_from_the_settle_is_caught() {
    is_caught(Broker::Redis, "publish-apart", &[(1, Kind::Parent(3))], KILLS, &["nobody sent it"]);
}

/// Cuts the power and nothing else.
const POWER_CUTS: Faults = Faults { every: &[(Nemesis::CutPower, Duration::from_millis(1_500))], delay_ms: 0 };
/// What is told of a store that has lost what it had confirmed.
const LOST: &[&str] = &["has no end", "gave", "did not start", "the total", "ended by itself", "nothing has moved"];

#[test]
fn a_redis_on_a_disk_that_does_not_sync_is_caught() {
    is_caught(Broker::Redis, LYING_DISK, MIX, POWER_CUTS, LOST);
}

#[test]
fn an_embedded_store_on_a_disk_that_does_not_sync_is_caught() {
    is_caught(Broker::Embedded, LYING_DISK, MIX, POWER_CUTS, LOST);
}
