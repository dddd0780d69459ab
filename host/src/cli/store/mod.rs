//! `eventstream export | import | backup`: the commands that work on the store of a broker without a server.

pub(super) mod backup;
pub(super) mod export;
pub(super) mod import;
mod partial_file;

use eventstream::app::TransferCounts;

use super::output::format_thousands;

/// The name that stands for standard input or standard output in place of a file.
const STANDARD_STREAM: &str = "-";

/// Summarizes an export or an import; `verb` is what was done.
fn summarize(verb: &str, moved: &TransferCounts) -> String {
    let TransferCounts { events, failed, keys, state, known, expired, unreadable } = *moved;
    let [events, failed, keys] = [events, failed, keys].map(format_thousands);
    let mut summary = format!("{verb} {events} events, {failed} failed, {keys} keys");
    for (count, before, what) in [
        (state, ", ", "state keys"),
        (known, "; ", "existed already"),
        (expired, "; ", "keys had expired"),
        (unreadable, "; ", "could not be read"),
    ] {
        if count > 0 {
            summary.push_str(&format!("{before}{} {what}", format_thousands(count)));
        }
    }
    summary
}
