//! The broker on Redis Streams: one server, Redis 7.0 or later or Valkey 7.2 or later.
//!
//! Waiting events are in one stream for each lane, with one consumer group. Events due later are in a sorted set, and
//! ended events in two more streams. An entry carries its event with its whole history. Each transition is one script in
//! `scripts/`. Consumer and delivery count together fence a delivery. Redis's own list of pending entries is the truth;
//! what this process remembers only saves requests.
//!
//! Not promised: data that Redis itself loses. [`StoreHealth::durability`] says how much that can be, and the epoch and
//! the counters show that it happened.
//!
//! At the bottom `connection`, `scripts` and `client` send requests. Above them `lanes`, `hand_overs`, `epoch` and `capacity`
//! are what this process knows. Each other module is one operation and takes the parts that it needs.

mod append;
mod audit_store;
mod batcher;
mod capacity;
mod claim;
mod client;
mod codec;
mod connection;
mod entry;
mod entry_wait;
mod epoch;
mod hand_overs;
mod health;
mod heartbeat;
mod history;
mod keys;
mod known_store;
mod lanes;
mod maintain;
mod open;
mod open_error;
mod pauses;
mod peers;
mod plugin_state;
mod process_identity;
mod recover;
mod redis_url;
mod scripts;
mod server_info;
mod server_settings;
mod settle;
#[cfg(feature = "test-util")]
pub mod testing;
mod transfer;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::append::{AppendCall, EventAppender};
use self::batcher::{BatchError, Batcher};
use self::capacity::StoreCapacity;
use self::claim::EntryClaimer;
use self::client::StoreClient;
use self::entry::EntryDecoder;
use self::entry_wait::EntryWaiter;
use self::epoch::StoreEpoch;
use self::hand_overs::{HandOvers, RedisLeaseRenewal};
use self::health::HealthCheck;
use self::heartbeat::Heartbeat;
use self::history::EventHistory;
use self::known_store::KnownStoreFile;
use self::lanes::LaneDirectory;
use self::maintain::{PromoteStep, StoreMaintenance};
use self::open::prepare_store;
pub use self::open::{RedisTuning, snapshot};
pub use self::open_error::RedisOpenError;
use self::plugin_state::PluginStates;
use self::process_identity::new_consumer_name;
use self::recover::{EntryRecovery, SuspectList};
use self::redis_url::link_for_url;
use self::scripts::{ScriptCall, ScriptSet};
use self::settle::{DeliverySettler, SettleStep};
use self::transfer::{RedisSnapshot, SnapshotImporter};
use super::list_limiter::ListLimiter;
use super::{
    AcceptedEvent, AppendRequest, AuditNote, Broker, BrokerOptions, BrokerStats, ClaimRequest, ConsumerCoverage,
    ConsumerDirectory, Delivery, EndedPage, EndedQuery, Error, EventLog, FailedEventChange, FoundEvent, Lane,
    LeaseRenewal, PeerCoverage, PluginStateReader, PluginStateRemover, PromoteOutcome, RestoreOutcome, SettleOutcome,
    SettleRequest, SnapshotItem, SnapshotReader, StoreHealth, StoreTransfer, WaitingEventChange, WorkQueue,
};
use crate::event::{EventId, StoredValue};
use crate::shutdown::TaskGroup;

/// The broker on Redis. See the module.
pub struct RedisBroker {
    client: Arc<StoreClient>,
    lanes: Arc<LaneDirectory>,
    capacity: Arc<StoreCapacity>,
    hand_overs: Arc<HandOvers>,
    heartbeat: Arc<Heartbeat>,
    appender: Arc<EventAppender>,
    appends: Batcher<AppendCall, Result<Vec<AcceptedEvent>, Error>>,
    waiter: Arc<EntryWaiter>,
    claimer: EntryClaimer,
    settler: Arc<DeliverySettler>,
    recovery: EntryRecovery,
    maintenance: StoreMaintenance,
    states: Arc<PluginStates>,
    history: EventHistory,
    importer: SnapshotImporter,
    ends: CancellationToken,
    _ends_with_this: DropGuard,
}

/// The steps that must be atomic. They are parameters so that tests can open a broker in which one is not.
struct AtomicSteps {
    scripts: ScriptSet,
    settle: SettleStep,
    promote: PromoteStep,
}

impl Default for AtomicSteps {
    fn default() -> Self {
        Self {
            scripts: ScriptSet::new(),
            settle: DeliverySettler::settle_atomically,
            promote: StoreMaintenance::promote_atomically,
        }
    }
}

impl RedisBroker {
    /// Connects, checks the server, makes missing lanes, and starts the background tasks in `tasks`. They end with
    /// [`Broker::close`] or when the broker is dropped, because the last settle still needs them.
    ///
    /// # Errors
    /// See [`RedisOpenError`]. Nothing is retried here.
    pub async fn open(url: &str, options: BrokerOptions, tasks: &TaskGroup) -> Result<Arc<Self>, RedisOpenError> {
        Self::open_tuned(url, options, RedisTuning::default(), tasks).await
    }

    /// Opens a broker as [`Self::open`] does, with other periods.
    ///
    /// # Errors
    /// See [`RedisOpenError`].
    pub async fn open_tuned(
        url: &str,
        options: BrokerOptions,
        tuning: RedisTuning,
        tasks: &TaskGroup,
    ) -> Result<Arc<Self>, RedisOpenError> {
        Self::open_with(url, options, tuning, AtomicSteps::default(), tasks).await
    }

    /// The digest by which `EVALSHA` names a script such as `append`, `claim` or `settle`.
    pub fn script_digest(&self, name: &str) -> Option<&str> {
        self.client.scripts.digest_of(name)
    }

    async fn open_with(
        url: &str,
        options: BrokerOptions,
        tuning: RedisTuning,
        steps: AtomicSteps,
        tasks: &TaskGroup,
    ) -> Result<Arc<Self>, RedisOpenError> {
        let consumer = new_consumer_name(&options.consumer_name);
        let link = link_for_url(url, &options)?;
        let client = Arc::new(StoreClient::new(link, steps.scripts, &options.namespace, consumer));
        let lanes = Arc::new(LaneDirectory::new(client.clone()));
        let epoch = Arc::new(StoreEpoch::new(client.clone()));
        let capacity = Arc::new(StoreCapacity::new(&options));
        let heartbeat = Arc::new(Heartbeat::new(client.clone(), lanes.clone(), options.lease_ms));
        let health = HealthCheck {
            client: client.clone(),
            lanes: lanes.clone(),
            epoch: epoch.clone(),
            capacity: capacity.clone(),
            known_store: KnownStoreFile::new(&options, client.link.address()),
            allow_unsafe: options.allow_unsafe,
            check_every: Duration::from_millis(tuning.check_every_ms),
        };
        prepare_store(&health, &heartbeat).await?;

        let ends = CancellationToken::new();
        tasks.spawn(health.run(ends.clone()));
        let appender = Arc::new(EventAppender {
            client: client.clone(),
            lanes: lanes.clone(),
            epoch: epoch.clone(),
            capacity: capacity.clone(),
            idempotency_ms: options.retention.idempotency_ms,
        });
        let for_batches = appender.clone();
        let appends = Batcher::start(tasks, ends.clone(), ScriptCall::MAX_BYTES, AppendCall::weight, move |requests| {
            let appender = for_batches.clone();
            async move { appender.append_together(requests).await }
        });
        let hand_overs = Arc::new(HandOvers::default());
        let settler = Arc::new(DeliverySettler {
            client: client.clone(),
            lanes: lanes.clone(),
            hand_overs: hand_overs.clone(),
            step: steps.settle,
        });
        let decoder =
            Arc::new(EntryDecoder { client: client.clone(), hand_overs: hand_overs.clone(), settler: settler.clone() });
        let waiter = Arc::new(EntryWaiter::new(client.clone(), lanes.clone()));
        let states = Arc::new(PluginStates { client: client.clone(), capacity: capacity.clone() });
        Ok(Arc::new(Self {
            claimer: EntryClaimer::new(client.clone(), lanes.clone(), decoder.clone(), waiter.clone()),
            recovery: EntryRecovery {
                client: client.clone(),
                lanes: lanes.clone(),
                hand_overs: hand_overs.clone(),
                decoder,
                heartbeat: heartbeat.clone(),
                lease_ms: options.lease_ms,
                suspects: Mutex::new(SuspectList::default()),
            },
            maintenance: StoreMaintenance {
                client: client.clone(),
                lanes: lanes.clone(),
                capacity: capacity.clone(),
                heartbeat: heartbeat.clone(),
                states: states.clone(),
                retention: options.retention,
                min_retention_ms: tuning.min_retention_ms,
                promote_step: steps.promote,
            },
            history: EventHistory {
                client: client.clone(),
                lanes: lanes.clone(),
                capacity: capacity.clone(),
                lists: ListLimiter::default(),
            },
            importer: SnapshotImporter { client: client.clone(), lanes: lanes.clone(), epoch },
            _ends_with_this: ends.clone().drop_guard(),
            client,
            lanes,
            capacity,
            hand_overs,
            heartbeat,
            appender,
            appends,
            waiter,
            settler,
            states,
            ends,
        }))
    }
}

#[async_trait]
impl EventLog for RedisBroker {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn health(&self) -> StoreHealth {
        self.client.troubles().health()
    }

    async fn append(&self, events: Vec<AppendRequest>) -> Result<Vec<AcceptedEvent>, Error> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        self.appender.ensure_accepting(&events)?;
        match self.appends.ask(AppendCall::encode(events, self.client.record_version())?).await {
            Ok(answer) => answer,
            Err(BatchError::QueueFull) => Err(Error::refused("more requests wait for Redis than it can take")),
            Err(BatchError::Ended) => Err(Error::unknown("the broker is closed")),
        }
    }

    async fn find_event(&self, id: EventId) -> Result<Option<FoundEvent>, Error> {
        self.history.find_event(id).await
    }

    async fn list_ended(&self, query: EndedQuery) -> Result<EndedPage, Error> {
        self.history.list_ended(query).await
    }

    async fn replay(&self, id: EventId, lane: &Lane, audit: Option<&AuditNote>) -> Result<FailedEventChange, Error> {
        self.history.replay(id, lane, audit).await
    }

    async fn discard(&self, id: EventId, reason: &str, audit: Option<&AuditNote>) -> Result<FailedEventChange, Error> {
        self.history.discard(id, reason, audit).await
    }

    async fn run_now(&self, id: EventId, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error> {
        self.history.make_due(id, audit).await
    }

    async fn cancel(&self, id: EventId, reason: &str, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error> {
        self.history.cancel(id, reason, audit).await
    }

    async fn stats(&self) -> Result<BrokerStats, Error> {
        self.history.read_stats().await
    }
}

#[async_trait]
impl WorkQueue for RedisBroker {
    async fn claim(&self, claim: ClaimRequest) -> Result<Vec<Delivery>, Error> {
        self.claimer.claim(claim).await
    }

    async fn wait_for_work(&self, lanes: &[Lane]) -> Result<(), Error> {
        self.waiter.wait(lanes).await
    }

    async fn settle(&self, batch: Vec<SettleRequest>) -> Result<Vec<SettleOutcome>, Error> {
        self.settler.settle_all(batch).await
    }

    fn lease_renewal(&self) -> Arc<dyn LeaseRenewal> {
        Arc::new(RedisLeaseRenewal::new(self.client.clone(), self.hand_overs.clone()))
    }

    async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        self.recovery.recover(max).await
    }

    async fn promote(&self) -> Result<PromoteOutcome, Error> {
        self.maintenance.promote().await
    }

    async fn maintain(&self) -> Result<bool, Error> {
        self.maintenance.maintain().await
    }

    fn lanes(&self) -> Vec<Lane> {
        self.lanes.known().lanes.clone()
    }

    fn limit_lanes(&self, own: BTreeMap<Lane, u64>) {
        self.capacity.set_lane_limits(own);
    }
}

#[async_trait]
impl ConsumerDirectory for RedisBroker {
    fn consumer(&self) -> &str {
        &self.client.consumer
    }

    async fn announce_coverage(&self, served: ConsumerCoverage) -> Result<(), Error> {
        self.heartbeat.announce(served).await
    }

    fn peer_coverage(&self) -> Arc<PeerCoverage> {
        self.heartbeat.peer_coverage()
    }

    fn live_consumers(&self) -> u64 {
        self.heartbeat.live_consumers()
    }

    async fn refresh_peer_coverage(&self) -> Result<Arc<PeerCoverage>, Error> {
        self.heartbeat.beat().await?;
        Ok(self.heartbeat.peer_coverage())
    }
}

#[async_trait]
impl PluginStateReader for RedisBroker {
    async fn read_plugin_state(&self, plugin: &str, key: &str) -> Result<StoredValue, Error> {
        Ok(self.states.read_value(plugin, key).await?)
    }
}

#[async_trait]
impl PluginStateRemover for RedisBroker {
    async fn remove_plugin_state(&self, plugin: &str, audit: Option<&AuditNote>) -> Result<u64, Error> {
        let audit = audit.map(AuditNote::encode).transpose()?;
        Ok(self.states.remove_all(plugin, audit.as_deref()).await?)
    }
}

#[async_trait]
impl StoreTransfer for RedisBroker {
    async fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, Error> {
        Ok(Box::new(RedisSnapshot::begin(self.client.clone()).await?))
    }

    async fn restore(&self, batch: Vec<SnapshotItem>) -> Result<Vec<RestoreOutcome>, Error> {
        self.importer.restore(batch).await
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn close(&self) -> Result<(), Error> {
        self.ends.cancel();
        self.heartbeat.reap(&self.client.consumer).await?;
        Ok(())
    }
}
