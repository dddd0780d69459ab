//! Writes what a snapshot reads, part by part.

use std::io::Write;

use super::line::{self, LineCounts};
use super::{Error, TransferCounts, TransferKind};
use crate::broker::SnapshotReader;
use crate::clock;

/// What is told while an export is written.
#[derive(Clone, Copy, Debug)]
pub enum ExportNotice<'a> {
    /// So much was written.
    Written(&'a TransferCounts),
    /// What stands where an event should was left out: where it is, and why it cannot be read.
    LeftOut(&'a str),
}

/// Writes an export. `moved` says all the time what was written.
///
/// The writing blocks. If the future is dropped, or this fails, what was written is an export that was cut short.
///
/// # Errors
/// [`Error::Store`] and [`Error::Write`].
pub async fn export(
    snapshot: &mut dyn SnapshotReader,
    out: &mut dyn Write,
    moved: &mut TransferCounts,
    tell: &mut dyn FnMut(ExportNotice<'_>),
) -> Result<(), Error> {
    let mut write = |line: Result<Vec<u8>, serde_json::Error>| {
        line.map_err(std::io::Error::from).and_then(|line| out.write_all(&line)).map_err(Error::Write)
    };
    write(line::header(clock::now()))?;
    while let Some(part) = snapshot.next().await? {
        for exported in &part.items {
            write(line::item(exported))?;
            *moved.count(TransferKind::of(exported)) += 1;
        }
        for why in &part.unreadable {
            tell(ExportNotice::LeftOut(why));
            moved.unreadable += 1;
        }
        tell(ExportNotice::Written(moved));
    }
    write(line::end(LineCounts::of(moved)))?;
    out.flush().map_err(Error::Write)
}
