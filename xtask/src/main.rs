//! The project's tasks, so that a developer needs only a Rust toolchain: `cargo xtask --help`.
//!
//! Each step is printed as a command, so that a person can repeat it by hand. The tasks write only below the target folder
//! and, for the examples in JavaScript and Python, into folders that git ignores. Before a task installs a program, such as
//! a Redis server or a Rust target, it prints the command.

mod bench;
mod chaos;
mod checks;
mod earlier_build;
mod guests;
mod lints;
mod process;
mod projects;
mod redis;
mod serve;
mod system;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// How to begin, at the end of `--help`.
const EXAMPLES: &str = "\
Examples:
  cargo xtask run                      serve the example plugins on 127.0.0.1:3000
  cargo xtask test                     every test, as CI runs it
  cargo xtask test -- --workspace --test e2e idempotency::
                                       the tests of one module
  cargo xtask guests                   after a change of a plugin or of a guest of the tests
  cargo xtask bench accept --quick     one figure
  cargo xtask bench --against v0.1.0   this build against an earlier commit

host/CONTRIBUTING.md shows how to test one thing in seconds.";

/// The tasks of those who develop eventstream.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the host and the example plugins, and serve them until ctrl-c.
    ///
    /// The events stay in target/run; the next run goes on with them.
    Run(serve::RunOptions),
    /// Build the components and the host, and run every test.
    ///
    /// Installs a Redis server, Node.js and Python where the package manager of the system can do so without a password.
    Test(checks::TestOptions),
    /// Run everything that a change must pass: formatting, lints, documentation and every test.
    Ci,
    /// Build the WebAssembly components: the example plugins and the guests of the tests.
    ///
    /// They go to target/plugins, target/guests and target/guests-wasip1. `cargo test` does not build them.
    Guests,
    /// Measure speed, memory and the isolation of plugins from each other, with an optimized build.
    Bench(bench::BenchOptions),
    /// Run hosts under load while their store, network and plugins fail, then check what became of every event.
    Chaos(chaos::ChaosOptions),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Run(options) => serve::run(&options),
        Task::Test(options) => checks::test(&options),
        Task::Ci => checks::ci(),
        Task::Guests => guests::build(),
        Task::Bench(options) => bench::run(&options),
        Task::Chaos(options) => chaos::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
