//! The command line: one file per command.
//!
//! A command writes its answer to standard output and errors to standard error. The exit codes are part of the contract;
//! [`ExitReason`] lists them.

mod audit;
mod client;
mod compile;
mod dev;
mod failed;
mod inspect;
mod key;
mod output;
mod pause;
mod plugin;
mod progress;
mod project;
mod send;
mod serve;
mod settings;
mod status;
mod store;
mod waiting;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use eventstream::api_key::KEY_PREFIX;
use eventstream::printable::Printable;
use eventstream::secret::hide_address;
use eventstream::shutdown::EarlyStop;

use output::{CommandResult, ExitReason, check_written, print_note, print_note_lines, report_error};
use store::{backup, transfer};

/// Receives events over HTTP, stores them durably, and delivers each one to a WebAssembly plugin
#[derive(Debug, Parser)]
#[command(name = "eventstream", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<CliCommand>,
    /// The flags of `serve`, which runs without a command.
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Start the server; this is the default command
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::Args),
    /// Build the plugin projects in a folder, serve them, and rebuild them when a file is saved
    #[command(after_help = dev::EXAMPLES)]
    Dev(dev::Args),
    /// Send one event to a server
    #[command(after_help = send::EXAMPLES)]
    Send(send::Args),
    /// Show the state of a server: readiness, totals, waiting events, plugins
    #[command(after_help = status::EXAMPLES)]
    Status(status::Args),
    /// Discard failed events of a server
    #[command(subcommand)]
    Failed(failed::FailedCommand),
    /// Make, list, rotate and revoke the keys of a deployment
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show who changed what
    #[command(after_help = audit::EXAMPLES)]
    Audit(audit::AuditArgs),
    /// Create, build, test, check and run plugins without a server; manage the plugins of a server
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Hand no more events to a plugin until it is resumed; they wait
    #[command(after_help = pause::PAUSE_EXAMPLES)]
    Pause(pause::PauseArgs),
    /// End the pause of a plugin
    #[command(after_help = pause::RESUME_EXAMPLES)]
    Resume(pause::ResumeArgs),
    /// Start events now that are scheduled or retrying
    #[command(after_help = waiting::RUN_NOW_EXAMPLES)]
    RunNow(waiting::EventTargets),
    /// End events that wait, for good
    #[command(after_help = waiting::CANCEL_EXAMPLES)]
    Cancel(waiting::EventTargets),
    /// Write the events, keys and plugin state of a broker to a file, to import them into another one
    #[command(after_help = transfer::EXPORT_EXAMPLES)]
    Export(transfer::ExportArgs),
    /// Read an export into a broker
    #[command(after_help = transfer::IMPORT_EXAMPLES)]
    Import(transfer::ImportArgs),
    /// Copy the embedded store; a server may be using it
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::Args),
    /// Compile the component on standard input; the server starts this command itself
    #[command(hide = true)]
    Compile(compile::Args),
}

const EXAMPLES: &str = "\
Examples:
  eventstream --plugins ./plugins
      Serve on http://127.0.0.1:3000 with the store in ./data
  eventstream send USER_SIGNUP '{\"name\":\"Ada\",\"email\":\"ada@example.com\"}' --wait
      Send an event, wait for its end, and show its result
  eventstream status
      Show totals, waiting events and plugins

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 broker or server unreachable, 4 plugin invalid";

/// Runs the command line. The exit code is one of [`ExitReason`] in every case, panics included.
pub fn main() -> ExitCode {
    // Comes first, so that a server can be stopped at any moment. A failure shows again when the server listens for signals.
    let early_stop = starts_server().then(EarlyStop::begin).and_then(Result::ok);
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        report_error(format_args!("a part of the program panicked at {place}: {message}"));
    }));
    let run = || Cli::try_parse().map_or_else(|error| answer_usage(&error), |cli| run(cli, early_stop));
    let ended = panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(ExitReason::Failed));
    ended.unwrap_or_else(|exit| exit).into()
}

/// Whether the command line starts a server, as far as its first word tells. Other commands end by a signal as programs
/// usually do.
fn starts_server() -> bool {
    let word = std::env::args_os().nth(1).unwrap_or_default();
    word.is_empty() || word == "serve" || word == "dev" || word.as_encoded_bytes().starts_with(b"-")
}

/// Prints the help or the version that was asked for, or reports what is wrong with the command line.
fn answer_usage(error: &clap::Error) -> CommandResult {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return check_written(error.print()).map(|()| ExitReason::Done);
    }
    // The message quotes arguments. One may be the name of another user's file that the shell inserted, an address with a
    // secret, or a key. So the arguments are made printable, without what follows the scheme of an address or the beginning
    // of a key, and parsed again.
    let arguments = std::env::args_os().map(|argument| {
        let argument = hide_address(&Printable(argument.to_string_lossy()).to_string());
        argument.split_once(KEY_PREFIX).map_or(argument.clone(), |(before, _)| format!("{before}{KEY_PREFIX}***"))
    });
    match Cli::try_parse_from(arguments) {
        Err(error) => print_note_lines(error.render().to_string().trim_end()),
        Ok(_) => print_note(error.render()),
    }
    Err(ExitReason::Usage)
}

fn run(cli: Cli, early_stop: Option<EarlyStop>) -> CommandResult {
    match cli.command {
        None => serve::run(&cli.serve, early_stop),
        Some(CliCommand::Serve(args)) => serve::run(&args, early_stop),
        Some(CliCommand::Dev(args)) => dev::run(&args, early_stop),
        Some(CliCommand::Send(args)) => send::run(&args),
        Some(CliCommand::Status(args)) => status::run(&args),
        Some(CliCommand::Failed(command)) => failed::run(&command),
        Some(CliCommand::Key(command)) => key::run(&command),
        Some(CliCommand::Audit(args)) => audit::run(&args),
        Some(CliCommand::Plugin(command)) => plugin::run(&command),
        Some(CliCommand::Pause(args)) => pause::pause(&args),
        Some(CliCommand::Resume(args)) => pause::resume(&args),
        Some(CliCommand::RunNow(events)) => waiting::run_now(&events),
        Some(CliCommand::Cancel(events)) => waiting::cancel(&events),
        Some(CliCommand::Export(args)) => transfer::export(&args),
        Some(CliCommand::Import(args)) => transfer::import(&args),
        Some(CliCommand::Backup(args)) => backup::run(&args),
        Some(CliCommand::Compile(args)) => compile::run(&args),
    }
}

#[cfg(test)]
mod tests;
