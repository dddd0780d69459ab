//! Moving to another store: what a snapshot holds, and how it is read and restored.
//!
//! A snapshot holds the events that have not ended, the failed ones, the idempotency keys and the plugin state.
//! Processed events and totals stay behind. Times are absolute, so that the length of the move shifts neither due times
//! nor windows.

use async_trait::async_trait;
use bytes::Bytes;

use super::{Error, Lane};
use crate::event::{EventId, EventRecord, Idempotency, Timestamp};

/// Reads a store out and restores what another store held.
#[async_trait]
pub trait StoreTransfer: Send + Sync + 'static {
    /// Begins to read everything that another store can go on with. Changes and delays nothing.
    ///
    /// Each item is read once. An event that moves or ends meanwhile may be read twice or not at all, unless the store
    /// promises a snapshot of one moment.
    async fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, Error>;

    /// Restores items, each on its own. The answers are in the order of the batch.
    ///
    /// An item that the store knows already stays as it is, so a repeated call changes nothing. Waiting events go to
    /// the ends of their lanes or wait until they are due. All events count as accepted, failed ones as failed too. No
    /// depth limit applies, since the events were accepted before.
    ///
    /// # Errors
    /// Those of [`super::EventLog::append`]. Any part of the batch may be restored: repeat all of it. Do not repeat it
    /// after [`Error::Unsafe`], which says that items restored earlier may be lost.
    async fn restore(&self, batch: Vec<SnapshotItem>) -> Result<Vec<RestoreOutcome>, Error>;
}

/// Reads a snapshot; see [`StoreTransfer::snapshot`]. Changes nothing.
#[async_trait]
pub trait SnapshotReader: Send {
    /// How many events the store held at the beginning: an estimate for showing progress.
    fn expected_events(&self) -> u64;

    /// Reads the next part; `None` at the end.
    ///
    /// Idempotency keys come first, then plugin state, then waiting events lane by lane, then failed events, oldest
    /// first. After the future was dropped the snapshot may be unusable: begin a new one.
    ///
    /// # Errors
    /// The store cannot be read. Begin a new snapshot when it can.
    async fn next(&mut self) -> Result<Option<SnapshotPart>, Error>;
}

/// A part of a snapshot: at most a few hundred items and a few MiB, or one larger item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotPart {
    /// The items. May be empty although more parts follow.
    pub items: Vec<SnapshotItem>,
    /// The place of each entry that cannot be read as an event, and why.
    pub unreadable: Vec<String>,
}

/// One item that another store can go on with.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotItem {
    /// An idempotency key within its window.
    Key(ExportedKey),
    /// An event that has not ended.
    Waiting(ExportedEvent),
    /// A failed event: its record has an end with a failure.
    Failed(EventRecord),
    /// A value of plugin state.
    State(ExportedState),
}

/// An idempotency key and its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedKey {
    /// The key and the fingerprint of the body that was sent with it.
    pub idempotency: Idempotency,
    /// The first event with that key. It may have ended and be deleted.
    pub id: EventId,
    /// The end of the key's window.
    pub until: Timestamp,
}

/// A value of plugin state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedState {
    /// The plugin.
    pub plugin: String,
    /// The state key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// When the value expires; `None` for never.
    pub until: Option<Timestamp>,
}

/// An event that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportedEvent {
    /// The event and its attempts. An attempt under way counts as made.
    pub record: EventRecord,
    /// The lane in which it waits.
    pub lane: Lane,
    /// When it may be delivered; `None` for at once.
    pub due: Option<Timestamp>,
}

/// The result for one restored item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreOutcome {
    /// The store holds it now.
    Done,
    /// The store knew the event or the key already, in any state or with any value. Nothing changed.
    Known,
    /// The window or the lifetime of the key is over. Nothing changed.
    Expired,
}
