//! `cargo xtask bench`: builds with optimization and runs the measurements of `tests/bench`.
//!
//! One command builds everything, because a second one with other features would compile parts again. A measurement checks
//! only that it measured what it claims to; promises are checked by the tests.

use crate::process::{cargo, run as run_command};
use crate::{earlier_build, guests, redis};

/// What to measure, and how thoroughly.
#[derive(clap::Args)]
pub struct BenchOptions {
    /// The figures to measure, all by default; --list prints their names.
    names: Vec<String>,
    /// Take less than two minutes: fewer events and turns and, unless figures are named, only some of them.
    #[arg(long)]
    quick: bool,
    /// Print the names of the figures and measure nothing.
    #[arg(long)]
    list: bool,
    /// Measure only this build against that of an earlier commit, in turns. The first time, builds that commit too.
    #[arg(long, value_name = "COMMIT", conflicts_with_all = ["names", "list"])]
    against: Option<String>,
    /// Write host/benches/RESULTS.md and its plots from the last run of each figure.
    #[arg(long)]
    write_results: bool,
    /// How many events to use in the figures that are defined by a number of events.
    #[arg(long)]
    events: Option<u64>,
    /// How many turns to measure; in each turn the product and its limit are measured once.
    #[arg(long)]
    repetitions: Option<u64>,
    /// The cargo profile to build with.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Builds everything and measures.
pub fn run(options: &BenchOptions) -> anyhow::Result<()> {
    let mut earlier = None;
    if !options.list {
        redis::ensure_program()?;
        guests::build()?;
        // First, since both are built in the same folder and this build's programs must be the ones that stay.
        earlier =
            options.against.as_deref().map(|commit| earlier_build::build(commit, &options.profile)).transpose()?;
        let parts = ["--bins", "--example", "limits", "--bench", "figures"];
        run_command(cargo("", &["build", "--workspace", "--locked", "--profile", &options.profile]).args(parts))?;
    }
    let mut command = cargo("", &["bench", "--workspace", "--locked", "--profile", &options.profile]);
    command.args(["--bench", "figures", "--"]).args(&options.names);
    if let Some(earlier) = earlier {
        command.arg("--against").arg(earlier.folder).arg(earlier.commit);
    }
    let switches = [("--quick", options.quick), ("--list", options.list), ("--write-results", options.write_results)];
    command.args(switches.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name));
    for (name, number) in [("--events", options.events), ("--repetitions", options.repetitions)] {
        if let Some(number) = number {
            command.args([name, &number.to_string()]);
        }
    }
    run_command(&mut command)
}
