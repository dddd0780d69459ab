//! Moves everything that can go on from one store to another, as lines of text.
//!
//! An export is written front to back and read front to back, each with a bounded amount in memory. It ends with a line
//! that says what it holds, so that one that was cut short is never taken for whole. An import recognizes what it finds:
//! after an interruption it is begun again from the first line, and nothing is lost or doubled. Where the lines come from
//! and go to is not known here, nor which stores there are.

mod export;
#[cfg(feature = "test-util")]
#[expect(clippy::expect_used, clippy::panic, reason = "a property that does not hold fails by panicking")]
pub mod fuzz;
mod import;
mod line;
mod payload;

pub use export::{ExportNotice, export};
pub use import::import;

use crate::broker::{self, SnapshotItem};

/// What was moved so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransferCounts {
    /// Events that had not ended.
    pub events: u64,
    /// Failed events.
    pub failed: u64,
    /// Idempotency keys.
    pub keys: u64,
    /// Keys of plugins' state.
    pub state: u64,
    /// Of an import: events and keys that were there already; they are not among the others.
    pub known: u64,
    /// Of an import: keys whose window was over.
    pub expired: u64,
    /// Of an export: what stands where an event should and cannot be read as one. It stays where it is.
    pub unreadable: u64,
}

/// The kinds of things that are counted.
#[derive(Clone, Copy)]
enum TransferKind {
    Key,
    Event,
    Failed,
    State,
}

impl TransferKind {
    fn of(exported: &SnapshotItem) -> Self {
        match exported {
            SnapshotItem::Key(_) => Self::Key,
            SnapshotItem::Waiting(_) => Self::Event,
            SnapshotItem::Failed(_) => Self::Failed,
            SnapshotItem::State(_) => Self::State,
        }
    }
}

impl TransferCounts {
    fn count(&mut self, kind: TransferKind) -> &mut u64 {
        match kind {
            TransferKind::Key => &mut self.keys,
            TransferKind::Event => &mut self.events,
            TransferKind::Failed => &mut self.failed,
            TransferKind::State => &mut self.state,
        }
    }
}

/// Why a move stopped. What was moved until then stays moved, and beginning again is always safe.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store could not be asked; [`broker::Error::is_transient`] says whether trying again may help.
    #[error(transparent)]
    Store(#[from] broker::Error),
    /// The store lost data during an import: what was moved before may be gone.
    #[error("the store lost data during the import: run it again")]
    Lost,
    /// The lines could not be read.
    #[error("the export cannot be read: {0}")]
    Read(std::io::Error),
    /// The lines could not be written.
    #[error("the export cannot be written: {0}")]
    Write(std::io::Error),
    /// The first line is not that of an export.
    #[error("what was read is not an export: its first line does not say so")]
    NotAnExport,
    /// A version after this one wrote it.
    #[error(
        "the export was written by a newer version (format {found}, this one knows {known}): import it with that version"
    )]
    Newer {
        /// The format of the export.
        found: u32,
        /// The newest format that is known.
        known: u32,
    },
    /// A line is not what it should be. What stands before it was imported.
    #[error("line {number} of the export is wrong: {reason}")]
    Line {
        /// Which line, from 1.
        number: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The last line is missing, or counts more than came. What came was imported.
    #[error("the export was cut short: what it holds was imported, the rest is missing; export again")]
    CutShort,
}
