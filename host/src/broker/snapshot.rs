//! What a store holds that another store can go on with, and how it is taken out and in.
//!
//! It is everything that has not ended, what failed, the idempotency keys and what plugins keep; processed events and
//! totals stay where they are. Times are points in time, so that neither a due time nor a window moves with how long the way takes.

use async_trait::async_trait;
use bytes::Bytes;

use super::{Error, Lane};
use crate::event::{EventId, EventRecord, Idempotency, Timestamp};

/// One thing that another store can go on with.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotItem {
    /// An idempotency key within its window.
    Key(ExportedKey),
    /// An event that has not ended.
    Waiting(ExportedEvent),
    /// A failed event: its record has an end with a failure.
    Failed(EventRecord),
    /// What a plugin keeps under a key.
    State(ExportedState),
}

/// An idempotency key, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedKey {
    /// The key and what was sent under it.
    pub idempotency: Idempotency,
    /// The event that was appended first with it. It may have ended and be gone.
    pub id: EventId,
    /// When its window ends.
    pub until: Timestamp,
}

/// What a plugin keeps under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedState {
    /// The plugin.
    pub plugin: String,
    /// The key.
    pub key: String,
    /// What it holds.
    pub value: Bytes,
    /// When it is forgotten; `None` for never.
    pub until: Option<Timestamp>,
}

/// An event that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportedEvent {
    /// The event and its story. An attempt that was under way counts as made.
    pub record: EventRecord,
    /// Where it waits.
    pub lane: Lane,
    /// From when on it may be delivered; `None` for at once.
    pub due: Option<Timestamp>,
}

/// A part of a snapshot, of at most a few hundred things and, but for a single large one, a few MiB.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotPart {
    /// What was read. May be empty though more follows.
    pub items: Vec<SnapshotItem>,
    /// What stands where an event should and cannot be read as one: where it is and why.
    pub unreadable: Vec<String>,
}

/// Reads what a store holds; see [`Broker::snapshot`](super::Broker::snapshot). Changes nothing.
#[async_trait]
pub trait SnapshotReader: Send {
    /// How many events there were at the beginning: for showing progress, not for counting on it.
    fn expected_events(&self) -> u64;

    /// The next part: keys first, then what plugins keep, then events that wait, in the order of their lanes, then what failed, oldest first.
    /// `None` at the end. If the future is dropped the snapshot may have ended, and has to be taken again.
    ///
    /// # Errors
    /// The store cannot be read. Begin again when the reason is gone.
    async fn next(&mut self) -> Result<Option<SnapshotPart>, Error>;
}

/// What became of a thing that was to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreOutcome {
    /// It is there now.
    Done,
    /// The store knows the event or the key already, in whatever state or with whatever value, and nothing changed.
    Known,
    /// The time of the key is over, and nothing changed.
    Expired,
}
