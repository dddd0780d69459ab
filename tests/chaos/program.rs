//! `cargo xtask chaos`: the ledger run as a program. Its arguments are the broker (`redis` or `embedded`), seconds,
//! seed, a file for the section of the report or `-`, and the names of the faults. Without names, all faults are
//! injected.
//!
//! A long run consists of rounds of a few minutes, each with a deployment of its own and the next seed. So one round bounds
//! memory, disk and audit, and a round that fails can be repeated alone. If a promise is broken, the store and the output
//! of the hosts are kept below `target/chaos`, no further round begins, and the exit code is 1.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests says what it found"
)]
#![allow(dead_code, reason = "the modules are those of the tests")]

mod deployment;
mod injector;
mod loose_setting;
mod nemesis;
mod producers;
mod report;
mod run;
mod stalled_clients;
mod store;
mod timetable;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use deployment::Deployment;
use eventstream_tests::layout;
use eventstream_tests::store::Broker;
use nemesis::{EVERYDAY, EVERYDAY_SINGLE_HOST, Faults, Nemesis};
use producers::SenderLoad;
use report::ChaosReport;
use run::{ChaosRun, MIX};

/// The longest round.
const ROUND: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [broker, seconds, seed, file, names @ ..] = &arguments[..] else {
        eprintln!("usage: chaos BROKER SECONDS SEED FILE [FAULT...]");
        return ExitCode::from(2);
    };
    let (broker, usual) = match broker.as_str() {
        "redis" => (Broker::Redis, EVERYDAY),
        _ => (Broker::Embedded, EVERYDAY_SINGLE_HOST),
    };
    let seed: u64 = seed.parse().unwrap();
    let chosen: Vec<(Nemesis, Duration)> = usual
        .every
        .iter()
        .filter(|(nemesis, _)| names.is_empty() || names.iter().any(|name| name == nemesis.as_str()))
        .copied()
        .collect();
    let faults = Faults { every: Box::leak(chosen.into_boxed_slice()), delay_ms: usual.delay_ms };
    println!("broker      {}\nseed        {seed}\nseconds     {seconds}", broker.name());
    let report = run_rounds(broker, faults, seed, Duration::from_secs(seconds.parse().unwrap()));
    println!("{report}");
    for broken in &report.broken {
        println!("            {broken}");
    }
    if file != "-" {
        fs::write(file, report.markdown(&title(broker))).unwrap();
    }
    if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Rounds of equal length, until the time is over or a promise is broken.
fn run_rounds(broker: Broker, faults: Faults, seed: u64, time: Duration) -> ChaosReport {
    let count = u32::try_from(time.as_secs().div_ceil(ROUND.as_secs())).unwrap().max(1);
    let mut all = ChaosReport::default();
    for round in 0..count {
        let seed = seed + u64::from(round);
        let kept = layout::profile_dir().join(format!("../chaos/{}-{seed}", broker.name()));
        let load = SenderLoad { senders: 4, pause: Duration::from_millis(60), mix: MIX };
        let run = ChaosRun { broker, seed, time: time / count, load, faults, mutant: None };
        let report = run::run(&run, |deployment| keep_files(deployment, &kept));
        if count > 1 {
            let (faults, accepted, broken) = (report.done.total(), report.accepted, report.broken.len());
            let number = round + 1;
            println!(
                "round       {number} of {count}: seed {seed}, {faults} faults, {accepted} accepted, {broken} broken"
            );
        }
        all.add(report);
        if !all.broken.is_empty() {
            println!("kept in     {}", kept.display());
            break;
        }
    }
    all
}

fn title(broker: Broker) -> String {
    match broker {
        Broker::Redis => "Redis: three hosts, each behind a wire of its own".into(),
        Broker::Embedded => "Embedded: one host on its directory".into(),
    }
}

/// Keeps what a person needs to find out what happened.
fn keep_files(deployment: &Deployment, folder: &Path) {
    copy_folder(deployment.store.directory(), &folder.join("store"));
    for place in &deployment.places {
        if let Some(host) = place.running() {
            fs::write(folder.join(format!("{}.log", place.name)), host.output()).unwrap();
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy_folder(&entry.path(), &to.join(entry.file_name())),
            kind if kind.is_file() => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
            _ => {}
        }
    }
}
