//! The broker itself: implements the traits of [`crate::broker`] with the writer, the readers and the leases.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;

use crate::broker::bad_entry::BadEntry;
use crate::broker::list_limiter::ListLimiter;
use crate::broker::{
    AcceptedEvent, AppendRequest, AuditNote, Broker, BrokerStats, ClaimRequest, ConsumerDirectory, Delivery, EndedPage,
    EndedQuery, Error, EventLog, FailedEventChange, FoundEvent, Lane, LaneLimits, LeaseRenewal, PluginStateReader,
    PluginStateRemover, PromoteOutcome, Receipt, RestoreOutcome, SettleOutcome, SettleRequest, SnapshotItem,
    SnapshotReader, StoreHealth, StoreTransfer, WaitingEventChange, WorkQueue,
};
use crate::clock;
use crate::event::{EventId, EventRecord, EventState, FailureClass, Settlement, StoredValue};

use super::append::{self, PreparedEvent};
use super::audit;
use super::claim::{self, ClaimedRow};
use super::columns::StoryColumns;
use super::history;
use super::leases::{LeaseTable, LeaseToken, LeasedDelivery};
use super::plugin_state;
use super::restore::{PreparedItem, restore};
use super::retention;
use super::settle::{self, FailedMove, FailedTarget, PreparedSettle};
use super::snapshot::snapshot;
use super::step::{CommitMode, JobKind};
use super::store::{
    BackupError, HighWaterKeeper, NOT_IN_PLACE, ReaderPool, SqliteFault, StoreCondition, StoreDirectory, StoreIdentity,
    WalProgress, backup,
};
use super::totals::{StoreByteLimits, StoreTotals};
use super::writer::StoreWriter;

/// How long [`WorkQueue::wait_for_work`] waits at most.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(1);
/// The most pieces of each kind of maintenance in one call; the next call does the rest.
const MAX_PIECES: usize = 20;

/// An open store. [`Broker::close`] ends it cleanly. Dropping it waits for the transaction under way, and otherwise
/// leaves the store as a crash would.
pub struct EmbeddedBroker {
    // Dropped first, so that the thread ends before the directory is unlocked.
    pub(super) writer: Arc<StoreWriter>,
    pub(super) readers: ReaderPool,
    pub(super) lists: ListLimiter,
    pub(super) leases: Arc<LeaseTable>,
    pub(super) limits: Arc<ArcSwap<LaneLimits>>,
    pub(super) byte_limits: StoreByteLimits,
    pub(super) totals: watch::Receiver<StoreTotals>,
    pub(super) condition: StoreCondition,
    pub(super) consumer: String,
    pub(super) identity: StoreIdentity,
    pub(super) opening: i64,
    pub(super) high_water: HighWaterKeeper,
    pub(super) wal: WalProgress,
    pub(super) directory: Arc<StoreDirectory>,
}

impl EmbeddedBroker {
    /// Copies the store to another directory; see [`backup()`]. If the future is dropped the copy goes on.
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

    /// Fails a store whose files were removed or replaced. If only the log was removed, its content is still readable
    /// and is saved first.
    async fn fail_replaced_store(&self) {
        if self.condition.usable().is_ok() && self.directory.lacks_only_log(&self.identity) {
            self.wal.set_removed();
            let step = self.writer.run(CommitMode::Written, |_| Ok(Ok(()))).await;
            // If an earlier job saved it, the store has failed by now and there is nothing to report.
            if let (Err(error), Ok(())) = (step, self.condition.usable()) {
                tracing::error!("the log of the embedded store was removed, and what it held was not saved: {error}");
            }
        }
        self.condition.note(&SqliteFault::Final(NOT_IN_PLACE.into()));
    }

    /// Changes the record of an event and moves it to `target`, if the event has failed.
    async fn move_failed(
        &self,
        id: EventId,
        target: FailedTarget,
        audit: Option<&AuditNote>,
        change: impl Fn(EventRecord) -> EventRecord + Send + Sync,
    ) -> Result<FailedEventChange, Error> {
        let audit = audit.map(AuditNote::encode).transpose()?;
        loop {
            let Some(stored) = self.readers.read(move |db| history::find_event(db, id)).await? else {
                return Ok(FailedEventChange::Unknown);
            };
            let found = stored.decode().map_err(|error| Error::Misconfigured(error.to_string()))?;
            if found.state != EventState::Failed {
                return Ok(FailedEventChange::NotFailed(found.state));
            }
            let story = StoryColumns::encode(&change(found.record));
            let kind = JobKind::writes(CommitMode::Synced, story.as_ref().map_or(0, StoryColumns::size_bytes));
            let kind = if target == FailedTarget::Discarded { kind.relieving() } else { kind };
            let failed = FailedMove { id, place: stored.place, story, target: target.clone(), audit: audit.clone() };
            // If another call moved the event since it was read, look again.
            if self.writer.run(kind, move |step| settle::move_failed(step, &failed)).await? {
                return Ok(FailedEventChange::Done);
            }
        }
    }

    /// Settles some of a batch in one step.
    async fn run_settles(&self, all: Arc<[PreparedSettle]>, some: Range<usize>) -> Result<Vec<SettleOutcome>, Error> {
        let batch = &all[some.clone()];
        let kind = JobKind::writes(CommitMode::Synced, batch.iter().map(PreparedSettle::size_bytes).sum());
        // A delivery that is returned takes no room, and a stop needs it.
        let kind = if batch.iter().all(PreparedSettle::is_returned) { kind.relieving() } else { kind };
        self.writer.run(kind, move |step| settle::settle(step, &all[some.clone()])).await
    }

    fn receipt(&self, claimed: &ClaimedRow) -> Receipt {
        let LeasedDelivery { number, place, .. } = claimed.delivery;
        let (body_bytes, story_bytes) = (claimed.found.body_bytes(), claimed.found.story_bytes());
        let entry = LeaseToken { opening: self.opening, number, place, body_bytes, story_bytes };
        Receipt {
            event_id: claimed.found.id().unwrap_or_else(|_| EventId::new()),
            lane: claimed.lane.clone(),
            entry: entry.to_string(),
            deliveries: claimed.delivery.deliveries,
        }
    }

    /// Decodes claimed rows. A row that cannot be decoded fails at once; the failed event keeps its bytes.
    async fn decode_claimed(&self, claimed: Vec<ClaimedRow>) -> Vec<Delivery> {
        let mut deliveries = Vec::with_capacity(claimed.len());
        let mut unreadable = Vec::new();
        for claimed in claimed {
            let receipt = self.receipt(&claimed);
            match claimed.found.decode() {
                Ok(record) => deliveries.push(Delivery { record, deliveries: receipt.deliveries, receipt }),
                Err(error) => {
                    unreadable.extend(settle_unreadable(&receipt, &claimed, &error.to_string()));
                }
            }
        }
        if !unreadable.is_empty() {
            // If this fails, the events are recovered and failed when their leases are over.
            let settled = self.writer.run(CommitMode::Synced, move |step| settle::settle(step, &unreadable)).await;
            if let Err(error) = settled {
                tracing::warn!("events that cannot be read were not failed yet: {error}");
            }
        }
        deliveries
    }
}

/// The settle of a delivery whose event cannot be read.
fn settle_unreadable(receipt: &Receipt, claimed: &ClaimedRow, why: &str) -> Option<PreparedSettle> {
    let (id, fields) = (receipt.event_id, claimed.found.fields());
    let bad = BadEntry { id, lane: &claimed.lane, entry: &receipt.entry, added: id.created_at(), fields: &fields, why };
    bad.log();
    let settlement = Settlement::Failed { class: FailureClass::BadEntry, reason: why.to_owned() };
    Some(PreparedSettle::for_unreadable(receipt, &bad.record(clock::now())?, settlement))
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
        let stored = self.readers.read(move |db| history::find_event(db, id)).await?;
        stored.map(|it| it.decode()).transpose().map_err(|error| Error::Misconfigured(error.to_string()))
    }

    async fn list_ended(&self, query: EndedQuery) -> Result<EndedPage, Error> {
        let cursor = match &query.cursor {
            None => i64::MAX,
            Some(cursor) => cursor.parse().map_err(|_| Error::BadCursor)?,
        };
        // Fewer lists than readers run at once, so that lists delay neither state reads nor lookups of single events.
        // Only the worker asks for heads, and it reads one list at a time.
        let turn = if query.only_heads { None } else { Some(self.lists.enter().await?) };
        let (page, _turn) = self.readers.read(move |db| Ok((history::list_ended(db, &query, cursor)?, turn))).await?;
        let mut records = Vec::with_capacity(page.rows.len());
        for found in page.rows {
            match found.decode() {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!("an event is left out of the list: {error}"),
            }
        }
        Ok(EndedPage { records, next_cursor: page.next_cursor.map(|place| place.to_string()) })
    }

    async fn replay(&self, id: EventId, lane: &Lane, audit: Option<&AuditNote>) -> Result<FailedEventChange, Error> {
        self.move_failed(id, FailedTarget::Lane(lane.clone()), audit, EventRecord::replayed).await
    }

    async fn discard(&self, id: EventId, reason: &str, audit: Option<&AuditNote>) -> Result<FailedEventChange, Error> {
        self.move_failed(id, FailedTarget::Discarded, audit, |record| record.discarded(clock::now(), reason)).await
    }

    async fn run_now(&self, id: EventId, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error> {
        self.make_due(id, audit).await
    }

    async fn cancel(&self, id: EventId, reason: &str, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error> {
        self.cancel_waiting(id, reason, audit).await
    }

    async fn stats(&self) -> Result<BrokerStats, Error> {
        let totals = self.totals.borrow();
        Ok(totals.stats(&self.byte_limits))
    }
}

#[async_trait]
impl WorkQueue for EmbeddedBroker {
    async fn claim(&self, claim: ClaimRequest) -> Result<Vec<Delivery>, Error> {
        let claimed = self.writer.run(CommitMode::Written, move |step| claim::claim(step, &claim)).await?;
        Ok(self.decode_claimed(claimed).await)
    }

    async fn wait_for_work(&self, lanes: &[Lane]) -> Result<(), Error> {
        self.condition.usable()?;
        let mut totals = self.totals.clone();
        let waits = |totals: &StoreTotals| totals.lanes.iter().any(|it| it.queued > 0 && lanes.contains(&it.lane));
        match tokio::time::timeout(MAX_WAIT, totals.wait_for(waits)).await {
            Ok(Err(_)) => Err(Error::refused("the store is closed")),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    async fn settle(&self, batch: Vec<SettleRequest>) -> Result<Vec<SettleOutcome>, Error> {
        let batch: Arc<[PreparedSettle]> = batch.iter().map(PreparedSettle::from).collect();
        let all = self.run_settles(batch.clone(), 0..batch.len()).await;
        if !matches!(all, Err(Error::NoRoom(_))) || batch.len() == 1 {
            return all;
        }
        // What does not fit as a whole may fit one by one. A repeated settle is recognized.
        let mut outcomes = Vec::with_capacity(batch.len());
        for index in 0..batch.len() {
            outcomes.extend(self.run_settles(batch.clone(), index..index + 1).await?);
        }
        Ok(outcomes)
    }

    fn lease_renewal(&self) -> Arc<dyn LeaseRenewal> {
        self.leases.clone()
    }

    async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        if !self.leases.has_expired() {
            self.condition.usable()?;
            return Ok(Vec::new());
        }
        let leases = self.leases.clone();
        let recovered = self.writer.run(CommitMode::Written, move |step| claim::recover(step, &leases, max)).await?;
        Ok(self.decode_claimed(recovered).await)
    }

    async fn promote(&self) -> Result<PromoteOutcome, Error> {
        self.writer.run(CommitMode::Written, claim::promote).await
    }

    async fn maintain(&self) -> Result<bool, Error> {
        if self.directory.identity().ok() != Some(self.identity) {
            self.fail_replaced_store().await;
        }
        let mut more = false;
        for piece in [
            retention::trim_history,
            retention::expire_idempotency_keys,
            plugin_state::expire,
            audit::trim,
            retention::return_pages,
        ] {
            let mut left = MAX_PIECES;
            while left > 0 && self.writer.run(JobKind::from(CommitMode::Written).relieving(), piece).await? {
                left -= 1;
            }
            more |= left == 0;
        }
        self.high_water.save();
        if self.condition.lacks_room() {
            self.writer.run(CommitMode::Synced, retention::probe_room).await?;
            self.condition.set_has_room();
        }
        Ok(more)
    }

    fn lanes(&self) -> Vec<Lane> {
        self.totals.borrow().lanes.iter().map(|it| it.lane.clone()).collect()
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
        let share_bytes = self.byte_limits.share_bytes;
        let read = self.readers.read(move |db| {
            let now_ms = clock::now().unix_ms();
            plugin_state::read(db, &plugin, &key, now_ms)?.map_or_else(
                |error| Ok(Err(error)),
                |stored| Ok(Ok(StoredValue { room_bytes: plugin_state::room_bytes(db, share_bytes)?, ..stored })),
            )
        });
        read.await?.map_err(|error| Error::Misconfigured(error.to_string()))
    }
}

#[async_trait]
impl PluginStateRemover for EmbeddedBroker {
    async fn remove_plugin_state(&self, plugin: &str, audit: Option<&AuditNote>) -> Result<u64, Error> {
        let mut removed = 0;
        loop {
            // The first step notes the removal, since a crash may come before the last one.
            let audit = audit.filter(|_| removed == 0).map(AuditNote::encode).transpose()?;
            let plugin = plugin.to_owned();
            let kind = JobKind::from(CommitMode::Synced).relieving();
            match self.writer.run(kind, move |step| plugin_state::remove(step, &plugin, audit.as_deref())).await? {
                0 => return Ok(removed),
                some => removed += some,
            }
        }
    }
}

#[async_trait]
impl StoreTransfer for EmbeddedBroker {
    /// The snapshot is of one moment.
    async fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, Error> {
        self.condition.usable()?;
        let directory = self.directory.clone();
        let opened = tokio::task::spawn_blocking(move || snapshot(directory.path())).await;
        let opened = opened.map_err(|_| Error::refused("reading the store failed"))?;
        opened.map_err(|error| Error::refused(error.to_string()))
    }

    async fn restore(&self, batch: Vec<SnapshotItem>) -> Result<Vec<RestoreOutcome>, Error> {
        let batch: Vec<PreparedItem> = batch.into_iter().map(PreparedItem::prepare).collect::<Result<_, _>>()?;
        self.writer.run(CommitMode::Synced, move |step| restore(step, &batch)).await
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    async fn close(&self) -> Result<(), Error> {
        self.readers.close();
        let writer = self.writer.clone();
        let stopped = tokio::task::spawn_blocking(move || writer.stop()).await;
        stopped.map_err(|_| Error::unknown("the thread that writes panicked"))?;
        self.high_water.save();
        self.directory.unlock().map_err(|error| Error::refused(format!("the directory stays locked: {error}")))
    }
}
