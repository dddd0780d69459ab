//! The program `eventstream`: the command line over the library of the same name.
//!
//! What each command does is in [`cli`]; how the parts of the server come together is in [`eventstream::app`].

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
