//! `cargo xtask bench`: builds with optimization and runs the measurements in `tests/bench`.
//!
//! Figures of one machine mean little on another; the ratios within a run do. Nothing is asserted here but that a
//! measurement measured what it says: what must hold is asserted by the end-to-end tests.

use clap::ValueEnum;

use crate::process::{cargo, run as run_command};
use crate::{guests, redis};

/// What to measure, and with what.
#[derive(clap::Args)]
pub struct Options {
    /// Only this measurement.
    #[arg(long)]
    only: Option<Measurement>,
    /// Events of the measurement of capacity.
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// The profile to build with.
    #[arg(long, default_value = "release")]
    profile: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measurement {
    /// Events accepted and worked off in a second, on both brokers.
    Throughput,
    /// Memory, disk and time of a great many events in the embedded store.
    Capacity,
    /// The latency of one plugin's events beside a plugin in trouble.
    Isolation,
}

/// Builds everything and measures.
pub fn run(options: &Options) -> anyhow::Result<()> {
    redis::ensure_program()?;
    guests::build()?;
    run_command(&mut cargo("", &["build", "--workspace", "--locked", "--profile", &options.profile]))?;
    for measurement in Measurement::value_variants() {
        if options.only.is_some_and(|only| only != *measurement) {
            continue;
        }
        let Some(name) = measurement.to_possible_value() else { continue };
        let arguments = ["bench", "--package", "eventstream-tests", "--locked", "--profile", &options.profile];
        let mut command = cargo("", &arguments);
        command.args(["--bench", name.get_name(), "--", "--events", &options.events.to_string()]);
        run_command(&mut command)?;
    }
    Ok(())
}
