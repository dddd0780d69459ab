//! What a command writes: what was asked for to standard output, words about it to standard error.
//!
//! Everything goes through here, so that nothing which a plugin, an event or a server says reaches the terminal as it is,
//! and no address is shown with its password. What was asked for and cannot be written is a failure; words about it that
//! nobody takes change nothing.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use eventstream::printable::{Printable, PrintableJson, PrintableLines};
use eventstream::secret::RedactedText;

use super::ExitReason;

/// That what was asked for could not be written, as the exit code; the reason has been said.
pub(super) type OutputResult = Result<(), ExitReason>;

impl ExitReason {
    /// This exit code, unless what was asked for could not be written.
    pub(super) fn unless_unwritten(self, said: OutputResult) -> Self {
        said.err().unwrap_or(self)
    }
}

/// Writes one line of what was asked for.
pub(super) fn say(line: impl Display) -> OutputResult {
    write_answer(&format!("{}\n", Printable(line)))
}

/// Writes a report of several lines. Each value in it that may be anything is to be [`Printable`].
pub(super) fn say_lines(report: impl Display) -> OutputResult {
    write_answer(&format!("{}\n", PrintableLines(report)))
}

/// Writes a document on one line.
pub(super) fn say_json(document: impl Display) -> OutputResult {
    write_answer(&format!("{}\n", PrintableJson(document)))
}

/// Writes a line that a server announces. It serves on though nobody reads that.
pub(super) fn announce(line: impl Display) {
    let line = format!("{}\n", Printable(line));
    let _ = io::stdout().lock().write_all(line.as_bytes());
}

/// Writes what is said about what was asked for, where that itself goes to standard output.
pub(super) fn note(line: impl Display) {
    write_aside(&format!("{}\n", Printable(RedactedText(line))));
}

/// As [`note`], for a report of several lines whose values are [`Printable`].
pub(super) fn note_lines(report: impl Display) {
    write_aside(&format!("{}\n", PrintableLines(RedactedText(report))));
}

/// Writes why something was not done.
pub(super) fn complain(line: impl Display) {
    note(format_args!("eventstream: {line}"));
}

/// As [`complain`], for a report of several lines whose values are [`Printable`].
pub(super) fn complain_lines(report: impl Display) {
    note_lines(format_args!("eventstream: {report}"));
}

/// How a command ends whose answer was written like this. A reader that went away (`| head`) knows it and is told nothing.
pub(super) fn written(result: io::Result<()>) -> OutputResult {
    result.map_err(|error| {
        if error.kind() != ErrorKind::BrokenPipe {
            complain(format_args!("standard output cannot be written: {error}"));
        }
        ExitReason::Failed
    })
}

fn write_answer(text: &str) -> OutputResult {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn write_aside(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
