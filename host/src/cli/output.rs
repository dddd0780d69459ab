//! What a command leaves: its answer on standard output, notes and errors on standard error, and its exit code.
//!
//! All output goes through these functions. They escape what a plugin, an event or a server says before it reaches the
//! terminal, and hide passwords in addresses. A command fails if its answer cannot be written. A note that cannot be
//! written is ignored.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use eventstream::app;
use eventstream::printable::{Printable, PrintableJson, PrintableLines};
use eventstream::secret::RedactedText;

/// How the program ends. The worse end is the greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ExitReason {
    /// Done.
    Done = 0,
    /// The command failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The broker cannot be reached, or the server for commands that talk to one.
    Unreachable = 3,
    /// The file is not a plugin.
    Invalid = 4,
}

impl ExitReason {
    /// Reports an error of the server or of a command on a store, and returns its exit code.
    pub(super) fn report(error: &app::Error) -> Self {
        report_error(error);
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

/// The end of a command. The reason of an error has been reported.
pub(super) type CommandResult = Result<ExitReason, ExitReason>;

/// The error is the exit code of a command whose answer could not be written. The reason has been reported.
pub(super) type OutputResult = Result<(), ExitReason>;

/// Prints one line of the answer.
pub(super) fn print_line(line: impl Display) -> OutputResult {
    write_stdout(&format!("{}\n", Printable(line)))
}

/// Prints several lines of the answer. Values from outside in them must be [`Printable`].
pub(super) fn print_lines(report: impl Display) -> OutputResult {
    write_stdout(&format!("{}\n", PrintableLines(report)))
}

/// Prints a JSON document on one line.
pub(super) fn print_json(document: impl Display) -> OutputResult {
    write_stdout(&format!("{}\n", PrintableJson(document)))
}

/// Prints a line about the server's state. The server runs on even if the line cannot be written.
pub(super) fn announce_fact(line: impl Display) {
    let line = format!("{}\n", Printable(line));
    let _ = io::stdout().lock().write_all(line.as_bytes());
}

/// Prints a note to standard error.
pub(super) fn print_note(line: impl Display) {
    write_stderr(&format!("{}\n", Printable(RedactedText(line))));
}

/// Prints a note of several lines to standard error. Values from outside in it must be [`Printable`].
pub(super) fn print_note_lines(report: impl Display) {
    write_stderr(&format!("{}\n", PrintableLines(RedactedText(report))));
}

/// Reports an error.
pub(super) fn report_error(line: impl Display) {
    print_note(format_args!("eventstream: {line}"));
}

/// Reports an error and returns the exit code of the command.
pub(super) fn report_as(exit: ExitReason, line: impl Display) -> ExitReason {
    report_error(line);
    exit
}

/// Reports an error of several lines. Values from outside in it must be [`Printable`].
pub(super) fn report_error_lines(report: impl Display) {
    print_note_lines(format_args!("eventstream: {report}"));
}

/// Reports a failure to write the answer, unless the reader closed the pipe (`| head`).
pub(super) fn check_written(result: io::Result<()>) -> OutputResult {
    result.map_err(|error| {
        if error.kind() != ErrorKind::BrokenPipe {
            report_error(format_args!("standard output cannot be written: {error}"));
        }
        ExitReason::Failed
    })
}

fn write_stdout(text: &str) -> OutputResult {
    let mut out = io::stdout().lock();
    check_written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Formats a number with commas: 1,234,567.
pub(super) fn format_thousands(number: u64) -> String {
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
