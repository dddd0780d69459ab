//! Writes a snapshot of a store as an export.

use std::io::Write;

use super::line::{self, LineCounts};
use super::{Error, TransferCounts, TransferKind};
use crate::broker::SnapshotReader;
use crate::clock;

/// What an export reports while it is written.
#[derive(Clone, Copy, Debug)]
pub enum ExportNotice<'a> {
    /// The counts so far.
    Written(&'a TransferCounts),
    /// An entry was left out because it cannot be read as an event: its place and the reason.
    LeftOut(&'a str),
}

/// Writes an export. `moved` always holds what was written so far.
///
/// Writing blocks the thread. If the future is dropped or fails, the output is an export that was cut short.
///
/// # Errors
/// [`Error::Store`] and [`Error::Write`].
pub async fn export(
    snapshot: &mut dyn SnapshotReader,
    out: &mut dyn Write,
    moved: &mut TransferCounts,
    report: &mut dyn FnMut(ExportNotice<'_>),
) -> Result<(), Error> {
    let mut write = |line: Result<Vec<u8>, serde_json::Error>| {
        line.map_err(std::io::Error::from).and_then(|line| out.write_all(&line)).map_err(Error::Write)
    };
    write(line::write_header(clock::now()))?;
    while let Some(part) = snapshot.next().await? {
        for exported in &part.items {
            write(line::write_item(exported))?;
            *moved.count(TransferKind::of(exported)) += 1;
        }
        for reason in &part.unreadable {
            report(ExportNotice::LeftOut(reason));
            moved.unreadable += 1;
        }
        report(ExportNotice::Written(moved));
    }
    write(line::write_end(LineCounts::of(moved)))?;
    out.flush().map_err(Error::Write)
}
