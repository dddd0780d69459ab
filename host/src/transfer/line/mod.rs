//! The lines of an export: a header, one line for each key, event and state key, and a last line with the counts.
//!
//! Each line is a JSON object whose `kind` says what it is. A change that an older reader would misread needs a new
//! [`VERSION`](format::VERSION). A line is validated as strictly as an HTTP request: an unknown member is an error, because
//! dropping it would lose what it means.

mod format;
mod payload;
mod read;
mod write;

pub(super) use format::LineCounts;
pub(super) use read::{ExportLine, read_header, read_line};
pub(super) use write::{write_end, write_header, write_item};

#[cfg(test)]
mod tests;
