//! `eventstream compile`: what a server starts for each component that it compiles. Not for people.

use clap::Args as Arguments;
use eventstream::app::{CompileLimits, compile_and_answer};

use super::{ExitReason, complain};

/// The limits that the server sets.
#[derive(Debug, Arguments)]
pub(super) struct Args {
    /// The most memory, in bytes
    #[arg(long)]
    memory_bytes: u64,
    /// The most CPU time, in milliseconds
    #[arg(long)]
    cpu_ms: u64,
}

/// Answers on standard output.
pub(super) fn run(args: &Args) -> ExitReason {
    let limits = CompileLimits { memory_bytes: args.memory_bytes, cpu_ms: args.cpu_ms, ..CompileLimits::default() };
    match compile_and_answer(limits, std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitReason::Done,
        Err(error) => {
            complain(format!("cannot compile: {error}"));
            ExitReason::Failed
        }
    }
}
