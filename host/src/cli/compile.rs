//! `eventstream compile`: compiles one component. The server starts it as a child process; it is not for people.

use clap::Args as Arguments;
use eventstream::app::{CompileLimits, compile_and_answer};

use super::output::{CommandResult, ExitReason, report_as};

/// The limits that the server sets on it.
#[derive(Debug, Arguments)]
pub(super) struct Args {
    /// The most memory, in bytes
    #[arg(long)]
    memory_bytes: u64,
    /// The most CPU time, in milliseconds
    #[arg(long)]
    cpu_ms: u64,
}

/// Compiles the component on standard input and writes the result to standard output.
pub(super) fn run(args: &Args) -> CommandResult {
    let limits = CompileLimits { memory_bytes: args.memory_bytes, cpu_ms: args.cpu_ms, ..CompileLimits::default() };
    let compiled = compile_and_answer(limits, std::io::stdin().lock(), std::io::stdout().lock());
    compiled.map_err(|error| report_as(ExitReason::Failed, format_args!("cannot compile: {error}")))?;
    Ok(ExitReason::Done)
}
