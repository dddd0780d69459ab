//! `cargo xtask bench`: builds with optimization and runs the measurements in `tests/bench`.
//!
//! The figures are ratios within one run, since machines differ and drift. Nothing is asserted here: that other plugins'
//! events finish while one plugin's wait is asserted by the end-to-end tests.

use crate::process::{cargo, run as run_command};
use crate::{guests, redis};

/// What to measure with.
#[derive(clap::Args)]
pub struct Options {
    /// The profile to build with.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Builds everything and measures.
pub fn run(options: &Options) -> anyhow::Result<()> {
    redis::ensure_program()?;
    guests::build()?;
    run_command(&mut cargo("", &["build", "--workspace", "--locked", "--profile", &options.profile]))?;
    let arguments = ["bench", "--package", "eventstream-tests", "--bench", "isolation", "--locked", "--profile"];
    run_command(cargo("", &arguments).arg(&options.profile))
}
