//! The command line: one file per command (contract section 3).
//!
//! What a person asked for goes to standard output, what went wrong to standard error in one line. The exit codes are
//! part of the contract and stand in [`Exit`].

mod backup;
mod client;
mod compile;
mod dev;
mod export;
mod import;
mod partial_file;
mod plugin;
mod progress;
mod project;
mod send;
mod serve;
mod settings;
mod status;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use eventstream::app;

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
    /// Build the plugin projects of a folder, serve them, and build again what is saved
    #[command(after_help = dev::EXAMPLES)]
    Dev(dev::Args),
    /// Send one event to a server
    #[command(after_help = send::EXAMPLES)]
    Send(send::Args),
    /// Show what a server does: totals, what waits, plugins, readiness
    #[command(after_help = status::EXAMPLES)]
    Status(status::Args),
    /// Make, build, test, check and run plugins without a server, and list those of one
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Write everything that another broker can go on with to a file
    #[command(after_help = export::EXAMPLES)]
    Export(export::Args),
    /// Take over what an export holds
    #[command(after_help = import::EXAMPLES)]
    Import(import::Args),
    /// Copy the embedded store, while it is served or not
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::Args),
    /// Compile what standard input holds, for the server that has started this
    #[command(hide = true)]
    Compile(compile::Args),
}

const EXAMPLES: &str = "\
Examples:
  eventstream --plugins ./plugins
      Serve on http://127.0.0.1:3000 from a store in ./data
  eventstream send USER_SIGNUP '{\"name\":\"Ada\",\"email\":\"ada@example.com\"}' --wait
      Send an event and show what its plugin made of it
  eventstream status
      Show totals, what waits, and the plugins

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 broker or server unreachable, 4 plugin invalid";

/// What stands for standard input or output in the place of a file.
const STANDARD: &str = "-";

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
    /// The file is not a plugin.
    Invalid = 4,
}

impl Exit {
    /// The exit code for why the server, or what worked with a store, ended.
    fn of(error: &app::Error) -> Self {
        match error {
            app::Error::Unreachable(_) => Self::Unreachable,
            app::Error::Refused(_) => Self::Usage,
            app::Error::Failed(_) => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the command that the command line asks for.
pub fn main() -> ExitCode {
    run(Cli::parse()).into()
}

fn run(cli: Cli) -> Exit {
    match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Dev(args)) => dev::run(&args),
        Some(Command::Send(args)) => send::run(&args),
        Some(Command::Status(args)) => status::run(&args),
        Some(Command::Plugin(command)) => plugin::run(&command),
        Some(Command::Export(args)) => export::run(&args),
        Some(Command::Import(args)) => import::run(&args),
        Some(Command::Backup(args)) => backup::run(&args),
        Some(Command::Compile(args)) => compile::run(&args),
    }
}

/// Writes a line of what was asked for. A reader that went away (`| head`) is no reason to fail.
fn say(line: impl Display) {
    use std::io::Write;
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// Writes what is said about what was asked for, where that itself goes to standard output.
#[expect(clippy::print_stderr, reason = "standard output belongs to the data")]
fn note(line: impl Display) {
    eprintln!("{line}");
}

/// A number as people write it: 1,234,567.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes why something was not done.
#[expect(clippy::print_stderr, reason = "the errors of a command go to standard error")]
fn complain(line: impl Display) {
    eprintln!("eventstream: {line}");
}

#[cfg(test)]
mod tests;
