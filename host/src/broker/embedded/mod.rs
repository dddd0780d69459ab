//! The broker of one machine: a durable log in one SQLite database, in a directory that one process owns.
//!
//! Every transition is a durable transaction. One thread writes, and commits what waits as a group ([`writer`]); leases
//! live in memory, since they end with the process ([`leases`]); what is asked about the past is read beside the writer
//! ([`readers`]). Due times go by the wall clock: when that is set back they come later, when it is set forward earlier.
//! The guarantees are those of [`crate::broker`]; more than one process is not among them.

mod append;
mod backup;
mod bulk;
mod checkpoint;
mod claim;
mod columns;
mod directory;
mod fault;
mod history;
mod kept;
mod leases;
mod memory;
mod open;
mod private;
mod readers;
mod restore;
mod retention;
mod room;
mod schema;
mod settle;
mod snapshot;
mod state;
mod totals;
mod writer;

pub use backup::{BackupError, backup};
pub use open::EmbeddedOpenError;
pub use snapshot::{SnapshotError, snapshot};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;

use super::bad_entry::BadEntry;
use super::list_limiter::ListLimiter;
use super::{
    AcceptedEvent, AppendRequest, Broker, BrokerStats, ClaimRequest, ConsumerDirectory, Delivery, EndedPage,
    EndedQuery, Error, EventLog, FoundEvent, Lane, LaneLimits, LeaseRenewal, PluginStateReader, PluginStateRemover,
    PromoteOutcome, Receipt, ReplayOutcome, RestoreOutcome, SettleOutcome, SettleRequest, SnapshotItem, SnapshotReader,
    StoreHealth, StoreTransfer, WorkQueue,
};
use crate::clock;
use crate::event::{EventId, EventState, FailureClass, Settlement, StoredValue};

use append::PreparedEvent;
use checkpoint::WalProgress;
use claim::ClaimedRow;
use directory::{NOT_IN_PLACE, StoreDirectory, StoreIdentity};
use fault::{SqliteFault, StoreCondition};
use leases::{LeaseTable, LeaseToken};
use memory::HighWaterKeeper;
use readers::ReaderPool;
use restore::RestoreItem;
use settle::{PreparedSettle, ReplayCandidate, ReplayPlacement};
use totals::StoreTotals;
use writer::{CommitMode, JobKind, StoreWriter};

/// How long [`WorkQueue::wait_for_work`] waits at most.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// The most pieces of each kind of house-keeping in one round; what is left is done in the next.
const MAX_PIECES: usize = 20;

/// A store that is open. Dropping it ends it as a crash would, but for waiting until the step under way is done;
/// [`Broker::close`] ends it in good order.
pub struct EmbeddedBroker {
    // First, so that it ends before the directory is given up.
    writer: Arc<StoreWriter>,
    readers: ReaderPool,
    lists: ListLimiter,
    leases: Arc<LeaseTable>,
    limits: Arc<ArcSwap<LaneLimits>>,
    /// How many bytes of one lane may wait.
    max_lane_bytes: u64,
    /// The most that the state of one plugin may take of the disk; `None` if the disk does not say how large it is.
    state_room_bytes: Option<u64>,
    board: watch::Receiver<StoreTotals>,
    condition: StoreCondition,
    consumer: String,
    identity: StoreIdentity,
    opening: i64,
    memory: HighWaterKeeper,
    log: WalProgress,
    directory: Arc<StoreDirectory>,
}

impl EmbeddedBroker {
    /// Copies the store as it is now to another directory; see [`backup()`]. If the future is dropped the copy goes on.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub async fn backup(
        &self,
        destination: &Path,
        progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<(), BackupError> {
        self.condition.usable().map_err(|error| BackupError::Read(error.to_string()))?;
        let (store, destination) = (self.directory.clone(), destination.to_owned());
        let copying = tokio::task::spawn_blocking(move || backup(store.path(), &destination, progress));
        copying.await.unwrap_or_else(|error| Err(BackupError::Read(error.to_string())))
    }

    /// Ends a store whose files are not in their place. What a log holds that was removed can still be read, and is saved.
    async fn give_up(&self) {
        if self.condition.usable().is_ok() && self.directory.lacks_only_log(&self.identity) {
            self.log.set_removed();
            let step = self.writer.run(CommitMode::Written, |_| Ok(Ok(()))).await;
            // It was saved already if the step before this one did it.
            if let (Err(error), Ok(())) = (step, self.condition.usable()) {
                tracing::error!("the log of the embedded store was removed, and what it held was not saved: {error}");
            }
        }
        self.condition.note(&SqliteFault::Final(NOT_IN_PLACE.into()));
    }

    fn receipt(&self, claimed: &ClaimedRow) -> Receipt {
        let entry = LeaseToken { opening: self.opening, number: claimed.held.number, place: claimed.held.place };
        Receipt {
            event_id: claimed.found.id().unwrap_or_else(|_| EventId::new()),
            lane: claimed.lane.clone(),
            entry: entry.to_string(),
            deliveries: claimed.held.deliveries,
        }
    }

    /// Decodes what was claimed. What cannot be read is failed at once, its bytes kept.
    async fn deliver(&self, claimed: Vec<ClaimedRow>) -> Vec<Delivery> {
        let mut deliveries = Vec::with_capacity(claimed.len());
        let mut unreadable = Vec::new();
        for claimed in claimed {
            let receipt = self.receipt(&claimed);
            match claimed.found.decode() {
                Ok(record) => deliveries.push(Delivery { record, deliveries: receipt.deliveries, receipt }),
                Err(error) => {
                    unreadable.extend(bad_entry(&receipt, &claimed, &error.to_string()));
                }
            }
        }
        if !unreadable.is_empty() {
            // If that cannot be done now, it will be when their leases are over; the others are not to wait for it.
            let settled = self.writer.run(CommitMode::Synced, move |step| settle::settle(step, &unreadable)).await;
            if let Err(error) = settled {
                tracing::warn!("events that cannot be read are not ended yet: {error}");
            }
        }
        deliveries
    }
}

/// The end of a delivery whose event cannot be read.
fn bad_entry(receipt: &Receipt, claimed: &ClaimedRow, why: &str) -> Option<PreparedSettle> {
    let (id, fields) = (receipt.event_id, claimed.found.fields());
    let bad = BadEntry { id, lane: &claimed.lane, entry: &receipt.entry, added: id.created_at(), fields: &fields, why };
    bad.log();
    let settlement = Settlement::Failed { class: FailureClass::BadEntry, reason: why.to_owned() };
    Some(PreparedSettle::instead(receipt, &bad.record(clock::now())?, settlement, claimed.found.data_bytes()))
}

#[async_trait]
impl EventLog for EmbeddedBroker {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn health(&self) -> StoreHealth {
        self.condition.health()
    }

    async fn append(&self, events: Vec<AppendRequest>) -> Result<Vec<AcceptedEvent>, Error> {
        let events: Vec<PreparedEvent> = events.iter().map(PreparedEvent::from).collect();
        let size_bytes = events.iter().map(PreparedEvent::size_bytes).sum();
        self.writer.try_run(JobKind::appends(size_bytes), move |step| append::append(step, &events)).await
    }

    async fn find_event(&self, id: EventId) -> Result<Option<FoundEvent>, Error> {
        let standing = self.readers.read(move |db| history::event(db, id)).await?;
        standing.map(|it| it.told()).transpose().map_err(|error| Error::Misconfigured(error.to_string()))
    }

    async fn list_ended(&self, query: EndedQuery) -> Result<EndedPage, Error> {
        let cursor = match &query.cursor {
            None => i64::MAX,
            Some(cursor) => cursor.parse().map_err(|_| Error::BadCursor)?,
        };
        // Fewer than there are readers, so that lists hold up neither handlers that read their state nor single events. Who
        // wants heads only is a host that keeps house, and that does so once at a time.
        let _turn = if query.only_heads { None } else { Some(self.lists.enter().await?) };
        let page = self.readers.read(move |db| history::ended(db, &query, cursor)).await?;
        let mut records = Vec::with_capacity(page.found.len());
        for found in page.found {
            match found.decode() {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!("left out of the history: {error}"),
            }
        }
        Ok(EndedPage { records, next_cursor: page.next_cursor.map(|place| place.to_string()) })
    }

    async fn replay(&self, id: EventId, lane: &Lane) -> Result<ReplayOutcome, Error> {
        loop {
            let Some(standing) = self.readers.read(move |db| history::event(db, id)).await? else {
                return Ok(ReplayOutcome::Unknown);
            };
            let found = standing.told().map_err(|error| Error::Misconfigured(error.to_string()))?;
            if found.state != EventState::Failed {
                return Ok(ReplayOutcome::NotFailed(found.state));
            }
            let story = columns::StoryColumns::of(&found.record.replayed());
            let replay = ReplayCandidate { id, place: standing.place, story, lane: lane.clone() };
            match self.writer.run(CommitMode::Synced, move |step| settle::replay(step, &replay)).await? {
                ReplayPlacement::Back => return Ok(ReplayOutcome::Done),
                // It was replayed and ended again since it was looked up.
                ReplayPlacement::Moved => {}
            }
        }
    }

    async fn stats(&self) -> Result<BrokerStats, Error> {
        Ok(self.board.borrow().stats(self.max_lane_bytes))
    }
}

#[async_trait]
impl WorkQueue for EmbeddedBroker {
    async fn claim(&self, claim: ClaimRequest) -> Result<Vec<Delivery>, Error> {
        let claimed = self.writer.run(CommitMode::Written, move |step| claim::claim(step, &claim)).await?;
        Ok(self.deliver(claimed).await)
    }

    async fn wait_for_work(&self, lanes: &[Lane]) -> Result<(), Error> {
        self.condition.usable()?;
        let mut board = self.board.clone();
        let waits = |totals: &StoreTotals| totals.lanes.iter().any(|it| it.queued > 0 && lanes.contains(&it.lane));
        match tokio::time::timeout(MAX_WAIT, board.wait_for(waits)).await {
            Ok(Err(_)) => Err(Error::refused("the store is closed")),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    async fn settle(&self, batch: Vec<SettleRequest>) -> Result<Vec<SettleOutcome>, Error> {
        let batch: Vec<PreparedSettle> = batch.iter().map(PreparedSettle::from).collect();
        let kind = JobKind::writes(CommitMode::Synced, batch.iter().map(PreparedSettle::size_bytes).sum());
        self.writer.run(kind, move |step| settle::settle(step, &batch)).await
    }

    fn lease_renewal(&self) -> Arc<dyn LeaseRenewal> {
        self.leases.clone()
    }

    async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        if !self.leases.is_any_over() {
            self.condition.usable()?;
            return Ok(Vec::new());
        }
        let leases = self.leases.clone();
        let recovered = self.writer.run(CommitMode::Written, move |step| claim::recover(step, &leases, max)).await?;
        Ok(self.deliver(recovered).await)
    }

    async fn promote(&self) -> Result<PromoteOutcome, Error> {
        self.writer.run(CommitMode::Written, claim::promote).await
    }

    async fn maintain(&self) -> Result<bool, Error> {
        if self.directory.identity().ok() != Some(self.identity) {
            self.give_up().await;
        }
        let mut more = false;
        for piece in [retention::trim, retention::forget_keys, kept::forget, retention::return_pages] {
            let mut left = MAX_PIECES;
            while left > 0 && self.writer.run(CommitMode::Written, piece).await? {
                left -= 1;
            }
            more |= left == 0;
        }
        self.memory.keep();
        if self.condition.lacks_room() {
            self.writer.run(CommitMode::Synced, retention::try_room).await?;
            self.condition.has_room();
        }
        Ok(more)
    }

    fn lanes(&self) -> Vec<Lane> {
        self.board.borrow().lanes.iter().map(|it| it.lane.clone()).collect()
    }

    fn limit_lanes(&self, own: BTreeMap<Lane, u64>) {
        let limits = LaneLimits::new(self.limits.load().all(), own);
        self.limits.store(Arc::new(limits));
    }
}

#[async_trait]
impl ConsumerDirectory for EmbeddedBroker {
    fn consumer(&self) -> &str {
        &self.consumer
    }
}

#[async_trait]
impl PluginStateReader for EmbeddedBroker {
    async fn read_plugin_state(&self, plugin: &str, key: &str) -> Result<StoredValue, Error> {
        let (plugin, key) = (plugin.to_owned(), key.to_owned());
        let read = self.readers.read(move |db| kept::read(db, &plugin, &key, clock::now().unix_ms())).await?;
        let stored = read.map_err(|error| Error::Misconfigured(error.to_string()))?;
        Ok(StoredValue { room_bytes: self.state_room_bytes, ..stored })
    }
}

#[async_trait]
impl PluginStateRemover for EmbeddedBroker {
    async fn remove_plugin_state(&self, plugin: &str) -> Result<u64, Error> {
        let mut removed = 0;
        loop {
            let plugin = plugin.to_owned();
            match self.writer.run(CommitMode::Synced, move |step| kept::remove(step, &plugin)).await? {
                0 => return Ok(removed),
                some => removed += some,
            }
        }
    }
}

#[async_trait]
impl StoreTransfer for EmbeddedBroker {
    /// A snapshot is of one moment.
    async fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, Error> {
        self.condition.usable()?;
        let directory = self.directory.clone();
        let opened = tokio::task::spawn_blocking(move || snapshot(directory.path())).await;
        let opened = opened.map_err(|_| Error::refused("reading the store failed"))?;
        opened.map_err(|error| Error::refused(error.to_string()))
    }

    async fn restore(&self, batch: Vec<SnapshotItem>) -> Result<Vec<RestoreOutcome>, Error> {
        let batch: Vec<RestoreItem> = batch.into_iter().map(RestoreItem::of).collect::<Result<_, _>>()?;
        self.writer.run(CommitMode::Synced, move |step| restore::restore(step, &batch)).await
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    async fn close(&self) -> Result<(), Error> {
        self.readers.close();
        let writer = self.writer.clone();
        let stopped = tokio::task::spawn_blocking(move || writer.stop()).await;
        stopped.map_err(|_| Error::unknown("the thread that writes panicked"))?;
        self.memory.keep();
        self.directory.unlock().map_err(|error| Error::refused(format!("the directory stays locked: {error}")))
    }
}

#[cfg(test)]
mod tests;
