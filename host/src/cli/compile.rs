//! `eventstream compile`: compiles one component. The server starts it as a child process; it is not for people.

use clap::Args as Arguments;
use eventstream::app::{CompileLimits, compile_and_answer};

use super::exit::ExitReason;
use super::output::report_error;

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
pub(super) fn run(args: &Args) -> ExitReason {
    let limits = CompileLimits { memory_bytes: args.memory_bytes, cpu_ms: args.cpu_ms, ..CompileLimits::default() };
    match compile_and_answer(limits, std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitReason::Done,
        Err(error) => {
            report_error(format!("cannot compile: {error}"));
            ExitReason::Failed
        }
    }
}
