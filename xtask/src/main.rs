//! The project's tasks, so that nobody needs more than a Rust toolchain: `cargo xtask run | test | ci | guests | bench |
//! chaos`.
//!
//! Every step is printed as the command that it is, so that what a task does can be done by hand. The tasks write below
//! the target folder and, for the examples in JavaScript and Python, into folders that git ignores; what they install (the targets of the guests; for the tests a Redis
//! server, Node.js and Python) they name first.

mod bench;
mod chaos;
mod checks;
mod guests;
mod lints;
mod process;
mod projects;
mod redis;
mod serve;
mod system;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The tasks of eventstream's developers.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the example plugins and the host and serve; ctrl-c stops everything.
    Run(serve::Options),
    /// Build the guests and run every test.
    Test(checks::TestOptions),
    /// What decides about a change: formatting, every test, and beside them lints and documentation.
    Ci,
    /// Build the example plugins into target/plugins and the tests' guests into target/guests.
    Guests,
    /// Measure: how fast, how large, and how little the events of one plugin feel of the trouble of another.
    Bench(bench::Options),
    /// Hosts under load while everything around them fails, and the audit of what became of every event.
    Chaos(chaos::Options),
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
