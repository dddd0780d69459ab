//! Moves events, idempotency keys and plugin state from one store to another, as lines of text.
//!
//! An export is written and read from front to back, with a bounded amount in memory. Its last line holds counts, so that
//! an export that was cut short is recognized. An import skips what the store already has: after an interruption it is
//! run again from the first line, and nothing is lost or doubled. The caller provides the stores and the streams.

mod export;
#[cfg(feature = "test-util")]
#[expect(clippy::expect_used, clippy::panic, reason = "a violated property fails by panicking")]
pub mod fuzz;
mod import;
mod line;

pub use export::{ExportNotice, export};
pub use import::import;

use crate::broker::{self, SnapshotItem};

/// What an export or import has moved so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransferCounts {
    /// Events that had not ended.
    pub events: u64,
    /// Failed events.
    pub failed: u64,
    /// Idempotency keys.
    pub keys: u64,
    /// State keys of plugins.
    pub state: u64,
    /// Import only: items that the store already had. They do not count in the other fields.
    pub known: u64,
    /// Import only: keys whose window was over.
    pub expired: u64,
    /// Export only: entries that cannot be read as events. They stay in the store.
    pub unreadable: u64,
}

/// The kinds of items that are counted.
#[derive(Clone, Copy)]
enum TransferKind {
    Key,
    Event,
    Failed,
    State,
}

impl TransferKind {
    fn of(item: &SnapshotItem) -> Self {
        match item {
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

/// Why an export or import stopped. What was moved stays moved; it is always safe to begin again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed. [`broker::Error::is_transient`] says whether trying again may help.
    #[error(transparent)]
    Store(#[from] broker::Error),
    /// The store lost data during an import, perhaps some that was imported before.
    #[error("the store lost data during the import: run it again")]
    Lost,
    /// The input cannot be read.
    #[error("the export cannot be read: {0}")]
    Read(std::io::Error),
    /// The output cannot be written.
    #[error("the export cannot be written: {0}")]
    Write(std::io::Error),
    /// The first line does not begin an export.
    #[error("the input is not an export: its first line is not the header of one")]
    NotAnExport,
    /// A newer version wrote the export.
    #[error(
        "the export was written by a newer version (format {found}, this one knows {known}): import it with that version"
    )]
    Newer {
        /// The format of the export.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
    },
    /// A line is wrong. The lines before it were imported.
    #[error("line {number} of the export is wrong: {reason}")]
    Line {
        /// The number of the line, from 1.
        number: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The last line is missing, or counts more than was read. What was read was imported.
    #[error("the export was cut short: what it holds was imported, the rest is missing; export again")]
    CutShort,
}
