//! Moving to another store: reads a snapshot of this one, and restores what another one held.

mod restore;
mod snapshot;

pub use snapshot::{SnapshotError, snapshot};

pub(super) use restore::{PreparedItem, restore};
