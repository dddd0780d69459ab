//! The program `eventstream`: the command line over the library of the same name.
//!
//! [`cli`] holds the commands, [`eventstream::app`] assembles the server.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
