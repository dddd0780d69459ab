//! `cargo xtask chaos`: hosts under load while everything around them fails, and the audit of what became of every event.

use std::process::Command;

use clap::ValueEnum;

use crate::process::{cargo, run as run_command};
use crate::{guests, redis};

/// How long, on what, and with which faults.
#[derive(clap::Args)]
pub struct Options {
    /// For how long things go wrong on each broker, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The seed of what is sent and of what goes wrong when; printed, and a new one if it is left out.
    #[arg(long)]
    seed: Option<u64>,
    /// On one broker only.
    #[arg(long)]
    broker: Option<Broker>,
    /// Only these faults: kill-host, kill-store, stop-host, freeze-wire, cut-wire, destroy-groups, flush-scripts,
    /// fill-memory, cut-power, fill-disk, jump-clock, swap-plugin. The embedded broker meets kill-host, stop-host,
    /// cut-power, fill-disk, jump-clock and swap-plugin.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// The profile to build with.
    #[arg(long, default_value = "dev")]
    profile: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Broker {
    /// Three hosts on a Redis, each behind a wire of its own.
    Redis,
    /// One host on its directory.
    Embedded,
}

/// Builds everything and lets it fail.
pub fn run(options: &Options) -> anyhow::Result<()> {
    redis::ensure_program()?;
    guests::build()?;
    run_command(&mut cargo("", &["build", "--workspace", "--locked", "--profile", &options.profile]))?;
    let seed = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| u64::from(now.subsec_micros()))
    });
    for broker in [Broker::Redis, Broker::Embedded] {
        if options.broker.is_some_and(|only| only != broker) {
            continue;
        }
        let name = if broker == Broker::Redis { "redis" } else { "embedded" };
        let arguments = ["run", "--quiet", "--package", "eventstream-tests", "--locked", "--example", "chaos"];
        let mut command: Command = cargo("", &arguments);
        command
            .args(["--profile", &options.profile, "--", name, &options.seconds.to_string(), &seed.to_string()])
            .args(&options.faults);
        run_command(&mut command)?;
    }
    Ok(())
}
