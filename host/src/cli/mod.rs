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
mod lines;
mod output;
mod partial_file;
mod plugin;
mod progress;
mod project;
mod send;
mod serve;
mod settings;
mod status;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use eventstream::app;
use eventstream::printable::Printable;

use output::{announce, complain, complain_lines, note, note_lines, say, say_json, say_lines};

/// Receives events over HTTP, keeps them durably, and hands each one to a WebAssembly plugin.
#[derive(Debug, Parser)]
#[command(name = "eventstream", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<CliCommand>,
    /// Without a command, the server is started.
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
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
    Plugin(plugin::PluginCommand),
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
enum ExitReason {
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

impl ExitReason {
    /// The exit code for why the server, or what worked with a store, ended.
    fn of(error: &app::Error) -> Self {
        match error {
            app::Error::Unreachable(_) => Self::Unreachable,
            app::Error::Refused(_) => Self::Usage,
            app::Error::Failed(_) => Self::Failed,
        }
    }
}

impl From<ExitReason> for ExitCode {
    fn from(exit: ExitReason) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the command that the command line asks for. Whatever happens, the exit code is one of [`Exit`].
pub fn main() -> ExitCode {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        complain(format_args!("a part of the program panicked at {place}: {message}"));
    }));
    let run = || Cli::try_parse().map_or_else(|error| usage(&error), run);
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(ExitReason::Failed).into()
}

/// Shows what was asked for instead of a command, or what is wrong with the command line.
fn usage(error: &clap::Error) -> ExitReason {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return ExitReason::Done.unless_unwritten(output::written(error.print()));
    }
    // The words quote arguments, of which one may be the name of somebody else's file that the shell put there. So they are
    // asked for once more, about arguments that can be printed.
    let arguments = std::env::args_os().map(|argument| Printable(argument.to_string_lossy()).to_string());
    match Cli::try_parse_from(arguments) {
        Err(error) => note_lines(error.render().to_string().trim_end()),
        Ok(_) => note(error.render()),
    }
    ExitReason::Usage
}

fn run(cli: Cli) -> ExitReason {
    match cli.command {
        None => serve::run(&cli.serve),
        Some(CliCommand::Serve(args)) => serve::run(&args),
        Some(CliCommand::Dev(args)) => dev::run(&args),
        Some(CliCommand::Send(args)) => send::run(&args),
        Some(CliCommand::Status(args)) => status::run(&args),
        Some(CliCommand::Plugin(command)) => plugin::run(&command),
        Some(CliCommand::Export(args)) => export::run(&args),
        Some(CliCommand::Import(args)) => import::run(&args),
        Some(CliCommand::Backup(args)) => backup::run(&args),
        Some(CliCommand::Compile(args)) => compile::run(&args),
    }
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

#[cfg(test)]
mod tests;
