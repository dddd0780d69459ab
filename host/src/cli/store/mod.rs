//! `eventstream export | import | backup`: the commands that work on the store of a broker without a server.

pub(super) mod backup;
pub(super) mod export;
pub(super) mod import;
mod partial_file;

/// The name that stands for standard input or standard output in place of a file.
const STANDARD_STREAM: &str = "-";
