//! `cargo xtask bench`: builds with optimization and measures; what there is to measure stands in `tests/bench`.
//!
//! Everything is built by one command, so that no part of it is built twice with other features. Nothing is asserted but
//! that a measurement measured what it says: what must hold is asserted by the tests.

use crate::process::{cargo, run as run_command};
use crate::{guests, redis};

/// What to measure, and how thoroughly.
#[derive(clap::Args)]
pub struct Options {
    /// Only these figures; --list names them.
    names: Vec<String>,
    /// In under two minutes: less of everything, and only some of the figures if none is named.
    #[arg(long)]
    quick: bool,
    /// Name the figures and measure nothing.
    #[arg(long)]
    list: bool,
    /// Write host/benches/RESULTS.md and its plots from the last run of every figure.
    #[arg(long)]
    write_results: bool,
    /// Events of the figures that go by number, in place of their own.
    #[arg(long)]
    events: Option<u64>,
    /// How often limit and product take turns.
    #[arg(long)]
    repetitions: Option<u64>,
    /// The profile to build with.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Builds everything and measures.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if !options.list {
        redis::ensure_program()?;
        guests::build()?;
        let parts = ["--bins", "--example", "limits", "--bench", "figures"];
        run_command(cargo("", &["build", "--workspace", "--locked", "--profile", &options.profile]).args(parts))?;
    }
    let mut command = cargo("", &["bench", "--workspace", "--locked", "--profile", &options.profile]);
    command.args(["--bench", "figures", "--"]).args(&options.names);
    let switches = [("--quick", options.quick), ("--list", options.list), ("--write-results", options.write_results)];
    command.args(switches.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name));
    for (name, number) in [("--events", options.events), ("--repetitions", options.repetitions)] {
        if let Some(number) = number {
            command.args([name, &number.to_string()]);
        }
    }
    run_command(&mut command)
}
