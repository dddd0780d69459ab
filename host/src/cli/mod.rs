//! The command line: one file per command (contract section 3).
//!
//! What a person asked for goes to standard output, what went wrong to standard error in one line. The exit codes are
//! part of the contract and stand in [`Exit`].

mod serve;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Receives events over HTTP, keeps them durably, and hands each one to a WebAssembly plugin.
#[derive(Debug, Parser)]
#[command(name = "eventstream", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Without a command, the server is started.
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server (what happens without a command, too)
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::Args),
}

const EXAMPLES: &str = "\
Examples:
  eventstream --plugins ./plugins
      Serve on http://127.0.0.1:3000 with the Redis at redis://127.0.0.1:6379
  eventstream send USER_SIGNUP '{\"name\":\"Ada\",\"email\":\"ada@example.com\"}' --wait
      Send an event and show what its plugin made of it
  eventstream status
      Show totals, what waits, and the plugins

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 broker or server unreachable, 4 plugin invalid";

/// How the program ends (contract section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done.
    Done = 0,
    /// What was asked for failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The broker, or for commands that talk to a server, the server cannot be reached.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the command that the command line asks for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
    };
    exit.into()
}

/// Writes a line of what was asked for. A reader that went away (`| head`) is no reason to fail.
fn say(line: impl Display) {
    use std::io::Write;
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// Writes why something was not done.
#[expect(clippy::print_stderr, reason = "the errors of a command go to standard error")]
fn complain(line: impl Display) {
    eprintln!("eventstream: {line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_the_flags_of_serve_are_understood() {
        let cli = Cli::try_parse_from(["eventstream", "--listen", "127.0.0.1:0"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.flags()[0].value, "127.0.0.1:0");
        assert!(Cli::try_parse_from(["eventstream", "--listen", "x", "serve"]).is_err());
    }
}
