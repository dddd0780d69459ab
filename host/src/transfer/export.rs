//! Writes what a snapshot reads, part by part.

use std::io::Write;

use super::line::{self, Counts};
use super::{Error, Kind, Moved};
use crate::broker::Snapshot;
use crate::clock;

/// What is told while an export is written.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// So much was written.
    Written(&'a Moved),
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
    snapshot: &mut dyn Snapshot,
    out: &mut dyn Write,
    moved: &mut Moved,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<(), Error> {
    let mut write = |line: Result<Vec<u8>, serde_json::Error>| {
        line.map_err(std::io::Error::from).and_then(|line| out.write_all(&line)).map_err(Error::Write)
    };
    write(line::header(clock::now()))?;
    while let Some(part) = snapshot.next().await? {
        for exported in &part.items {
            write(line::item(exported))?;
            *moved.count(Kind::of(exported)) += 1;
        }
        for why in &part.unreadable {
            tell(Told::LeftOut(why));
            moved.unreadable += 1;
        }
        tell(Told::Written(moved));
    }
    write(line::end(Counts::of(moved)))?;
    out.flush().map_err(Error::Write)
}
