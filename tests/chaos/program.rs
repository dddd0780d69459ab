//! `cargo xtask chaos`: the ledger run as a program. Arguments: broker (`redis` or `embedded`), seconds, seed, and the names
//! of the faults, all of them if there are none.
//!
//! With broken promises the store and what the hosts wrote are kept below `target/chaos`, and the exit code is 1.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests says what it found"
)]
#![allow(dead_code, reason = "the modules are those of the tests")]

mod deployment;
mod nemesis;
mod producers;
mod run;
mod store;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use deployment::Deployment;
use eventstream_tests::layout;
use eventstream_tests::store::Broker;
use nemesis::{EVERY_DAY, EVERY_DAY_OF_ONE, Faults, Nemesis};
use producers::Load;
use run::{MIX, Run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [broker, seconds, seed, names @ ..] = &arguments[..] else {
        eprintln!("usage: chaos BROKER SECONDS SEED [FAULT...]");
        return ExitCode::from(2);
    };
    let (broker, usual) = match broker.as_str() {
        "redis" => (Broker::Redis, EVERY_DAY),
        _ => (Broker::Embedded, EVERY_DAY_OF_ONE),
    };
    let seed: u64 = seed.parse().unwrap();
    let chosen: Vec<(Nemesis, Duration)> = usual
        .every
        .iter()
        .filter(|(nemesis, _)| names.is_empty() || names.iter().any(|name| name == nemesis.as_str()))
        .copied()
        .collect();
    let faults = Faults { every: Box::leak(chosen.into_boxed_slice()), delay_ms: usual.delay_ms };
    let load = Load { senders: 4, pause: Duration::from_millis(60), mix: MIX };
    let time = Duration::from_secs(seconds.parse().unwrap());
    println!("broker      {}\nseed        {seed}\nseconds     {seconds}", broker.name());
    let kept = layout::profile_dir().join(format!("../chaos/{}-{seed}", broker.name()));
    let report =
        run::run(&Run { broker, seed, time, load, faults, mutant: None }, |deployment| keep(deployment, &kept));
    println!("{report}");
    for broken in &report.broken {
        println!("            {broken}");
    }
    if report.broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("kept in     {}", kept.display());
    ExitCode::FAILURE
}

/// Keeps what a person needs to find out what happened.
fn keep(deployment: &Deployment, folder: &Path) {
    copy(deployment.store.directory(), &folder.join("store"));
    for place in &deployment.places {
        if let Some(host) = place.running() {
            fs::write(folder.join(format!("{}.log", place.name)), host.output()).unwrap();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &to.join(entry.file_name())),
            kind if kind.is_file() => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
            _ => {}
        }
    }
}
