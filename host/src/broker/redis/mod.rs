//! The broker on Redis Streams: Redis 7.0 or later, Valkey 7.2 or later, one server.
//!
//! Waiting events stand in one stream per lane, each with a consumer group; what is due later in a sorted set; what has
//! ended in two more streams. An entry carries its event and its whole story, and each transition is one script (see
//! `lua/`). A delivery is fenced by consumer and delivery count. Redis's own memory of who holds what is the truth; what
//! this process remembers only saves questions.
//!
//! Not promised: anything that Redis itself loses. How much that can be is in [`Health::durability`], and that it
//! happened is noticed by the epoch and the counters.

mod append;
mod appetite;
mod batch;
mod board;
mod claim;
mod codec;
mod core;
mod entry;
mod fault;
#[cfg(feature = "test-util")]
#[expect(clippy::expect_used, reason = "a property that does not hold fails by panicking")]
pub mod fuzz;
mod gate;
mod health;
mod history;
mod identity;
mod kept;
mod keys;
mod leases;
mod link;
mod list;
#[cfg(feature = "test-util")]
mod mutant;
mod neighbors;
mod recover;
mod reply;
mod restore;
mod scripts;
mod settle;
mod snapshot;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use redis::IntoConnectionInfo;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::append::AppendCall;
use self::batch::{BatchError, Batcher};
use self::board::TroubleBoard;
use self::claim::EntryWaiter;
use self::core::{CoreParts, RedisCore};
use self::fault::{CallFailure, FailureCause};
use self::gate::AppendGate;
use self::leases::RedisLeaseRenewal;
use self::link::{LinkState, RESPONSE_TIMEOUT, RedisLink};
#[cfg(feature = "test-util")]
pub use self::mutant::{BrokerMutant, UnknownMutant};
use self::scripts::ScriptSet;
use self::settle::MAX_CALL_BYTES;
use self::snapshot::RedisSnapshot;
use super::{
    AcceptedEvent, AppendRequest, Broker, BrokerOptions, BrokerStats, ClaimRequest, ConsumerCoverage,
    ConsumerDirectory, Delivery, EndedPage, EndedQuery, Error, EventLog, FoundEvent, Lane, LaneLimits, LeaseRenewal,
    PeerCoverage, PluginStateReader, PluginStateRemover, PromoteOutcome, ReplayOutcome, RestoreOutcome, SettleOutcome,
    SettleRequest, SnapshotItem, SnapshotReader, StoreHealth, StoreTransfer, WorkQueue,
};
use crate::event::{EventId, StoredValue};
use crate::secret::{RedactedUrl, SecretText};
use crate::shutdown::TaskGroup;

/// What is the same for every deployment, but not for every test.
#[derive(Clone, Copy, Debug)]
pub struct RedisTuning {
    /// How often the settings and the data of Redis are looked at, in milliseconds.
    pub look_every_ms: u64,
    /// Processed events are kept at least so long, in milliseconds, whatever the retention says: a repetition of a call
    /// whose answer was lost is recognised by what the first one left.
    pub least_retention_ms: u64,
}

impl Default for RedisTuning {
    fn default() -> Self {
        Self { look_every_ms: 10_000, least_retention_ms: 15_000 }
    }
}

/// Why the broker could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisOpenError {
    /// There is no Redis, or it is not ready; trying again later may help.
    #[error("Redis at {address} cannot be reached: {reason}; is it running, and is the address right?")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the connection or the server said.
        reason: String,
    },
    /// Redis answers and refuses every write; trying again later may help.
    #[error("Redis at {address} cannot be used yet: {reason}")]
    Refusing {
        /// Host and port.
        address: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The settings do not keep what is accepted (G1); the text names the line that mends it.
    #[error("{0}")]
    Unsafe(String),
    /// Too old, a replica, or part of a cluster.
    #[error("{0}")]
    Unsupported(String),
    /// The URL is not one of a single Redis without TLS.
    #[error("the broker URL {url:?} cannot be used: {reason}")]
    BadUrl {
        /// The URL, without its password.
        url: String,
        /// Why not.
        reason: String,
    },
    /// Redis does not let this host in, or holds something else where our data should be.
    #[error("{0}")]
    Misconfigured(String),
}

/// The broker on Redis. See the module.
pub struct RedisBroker {
    core: Arc<RedisCore>,
    appends: Batcher<AppendCall, Result<Vec<AcceptedEvent>, Error>>,
    waiter: EntryWaiter,
    ends: CancellationToken,
    _ends_with_this: DropGuard,
}

impl RedisBroker {
    /// Connects, checks the server, makes what is missing, and starts the background work in `tasks`. That work ends
    /// with [`Broker::close`] or when the broker is dropped, not before: it is needed until the last settle.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is retried here.
    pub async fn open(url: &str, options: BrokerOptions, tasks: &TaskGroup) -> Result<Arc<Self>, RedisOpenError> {
        Self::open_tuned(url, options, RedisTuning::default(), tasks).await
    }

    /// As [`Self::open`], with other than the usual periods.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_tuned(
        url: &str,
        options: BrokerOptions,
        tuning: RedisTuning,
        tasks: &TaskGroup,
    ) -> Result<Arc<Self>, RedisOpenError> {
        let link = link_to(url)?;
        let parts = CoreParts {
            options,
            tuning,
            scripts: ScriptSet::new(),
            link,
            #[cfg(feature = "test-util")]
            mutant: None,
        };
        Self::start(RedisCore::new(parts), tasks).await
    }

    /// As [`Self::open`], with a guarantee broken on purpose.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[cfg(feature = "test-util")]
    pub async fn open_mutant(
        url: &str,
        options: BrokerOptions,
        mutant: BrokerMutant,
        tasks: &TaskGroup,
    ) -> Result<Arc<Self>, RedisOpenError> {
        let (tuning, scripts) = (RedisTuning::default(), ScriptSet::broken_by(mutant));
        let parts = CoreParts { options, tuning, scripts, link: link_to(url)?, mutant: Some(mutant) };
        Self::start(RedisCore::new(parts), tasks).await
    }

    /// The digest by which a script is seen on the wire: `append`, `claim`, `settle` and so on.
    #[cfg(feature = "test-util")]
    pub fn script_digest(&self, name: &str) -> Option<&str> {
        self.core.scripts.digest_of(name)
    }

    async fn start(core: RedisCore, tasks: &TaskGroup) -> Result<Arc<Self>, RedisOpenError> {
        prepare(&core).await?;
        let core = Arc::new(core);
        let ends = CancellationToken::new();
        tasks.spawn(core.clone().keep_looking(ends.clone()));
        let for_appends = core.clone();
        let appends = Batcher::start(tasks, ends.clone(), MAX_CALL_BYTES, AppendCall::weight, move |requests| {
            let core = for_appends.clone();
            async move { core.append_together(requests).await }
        });
        let waiter = EntryWaiter::new(&core.link);
        let _ends_with_this = ends.clone().drop_guard();
        Ok(Arc::new(Self { core, appends, waiter, ends, _ends_with_this }))
    }
}

/// Begins to read the store at a URL without becoming a consumer of it: nothing is written, and settings that may lose
/// data are no reason to refuse, since they are a reason to move.
///
/// # Errors
/// See [`OpenError`]. Nothing is retried here.
pub async fn snapshot(url: &str, options: BrokerOptions) -> Result<Box<dyn SnapshotReader>, RedisOpenError> {
    let parts = CoreParts {
        options,
        tuning: RedisTuning::default(),
        scripts: ScriptSet::new(),
        link: link_to(url)?,
        #[cfg(feature = "test-util")]
        mutant: None,
    };
    let core = Arc::new(RedisCore::new(parts));
    let refused = |failure| refused(&core, failure);
    if let Some(why) = core.inspect_server().await.map_err(refused)?.unsupported {
        return Err(RedisOpenError::Unsupported(why));
    }
    Ok(Box::new(RedisSnapshot::begin(core.clone()).await.map_err(refused)?))
}

/// Why a store could not be opened, from the first call that failed.
fn refused(core: &RedisCore, failure: CallFailure) -> RedisOpenError {
    let said = &failure.message;
    match failure.reaction.cause {
        FailureCause::Denied if said.contains("NOAUTH") || said.contains("WRONGPASS") => {
            RedisOpenError::Misconfigured(format!(
                "Redis at {} wants a password, or another one: give it in the URL, redis://:PASSWORD@HOST:PORT ({said})",
                core.link.line().address
            ))
        }
        FailureCause::Unreachable if said.contains("DB index is out of range") => RedisOpenError::Misconfigured(
            format!("Redis at {} has no database of the number that ends the URL: {said}", core.link.line().address),
        ),
        FailureCause::Denied | FailureCause::Misplaced | FailureCause::NoRoom => {
            RedisOpenError::Misconfigured(failure.message)
        }
        FailureCause::Demoted => RedisOpenError::Unsupported(failure.message),
        FailureCause::NoReplicas | FailureCause::CannotPersist | FailureCause::Busy => {
            RedisOpenError::Refusing { address: core.link.line().address.clone(), reason: board::explained(&failure) }
        }
        _ => {
            let address = core.link.line().address.clone();
            let reason = failure.message.strip_prefix(&link::unreachable(&address)).unwrap_or(&failure.message);
            RedisOpenError::Unreachable { reason: reason.to_owned(), address }
        }
    }
}

/// What has to be so before the first call.
async fn prepare(core: &RedisCore) -> Result<(), RedisOpenError> {
    let refused = |failure| refused(core, failure);
    let verdict = core.inspect_server().await.map_err(refused)?;
    if let Some(why) = verdict.unsupported {
        return Err(RedisOpenError::Unsupported(why));
    }
    if let Some(why) = verdict.unsafe_settings.filter(|_| !core.options.allow_unsafe) {
        return Err(RedisOpenError::Unsafe(why));
    }
    core.refresh_lanes(&[Lane::unrouted()]).await.map_err(refused)?;
    core.adopt_epoch("").await.map_err(refused)?;
    core.show_life().await.map_err(refused)?;
    core.look().await.map_err(refused)?;
    core.probe().await;
    // Until here the one who opens is told what is wrong; from here on the log is.
    core.board().begin_log();
    Ok(())
}

/// A link for a URL, not connected yet.
fn link_to(url: &str) -> Result<RedisLink, RedisOpenError> {
    let bad = |reason: &str| RedisOpenError::BadUrl { url: RedactedUrl(url).to_string(), reason: reason.to_owned() };
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("redis" | "valkey") => {}
        Some("rediss" | "valkeys") => {
            return Err(bad("TLS is not supported; use redis:// through a tunnel or on a private network"));
        }
        Some("redis-sentinel") => return Err(bad("Sentinel is not supported; name the primary with redis://")),
        Some("redis-cluster") => return Err(bad("clusters are not supported; name a single Redis with redis://")),
        _ => return Err(bad("it is written as redis://[user:password@]host[:port][/database]")),
    }
    // Else the host would be looked for in the middle of the password, and be shown.
    if url
        .split_once("://")
        .is_some_and(|(_, rest)| rest.find(['/', '?', '#']).is_some_and(|end| rest[end..].contains('@')))
    {
        return Err(bad(
            "what has a meaning in a URL is encoded in a password: @ as %40, / as %2F, ? as %3F, # as %23",
        ));
    }
    let info = url.into_connection_info().map_err(|error| bad(&error.to_string()))?;
    let address = info.addr().to_string();
    let settings = info.tcp_settings().clone().set_nodelay(true);
    let password = info.redis_settings().password().map(SecretText::from);
    let client = redis::Client::open(info.set_tcp_settings(settings)).map_err(|error| bad(&error.to_string()))?;
    let line = LinkState {
        address,
        password,
        gate: AppendGate::default(),
        board: TroubleBoard::new(),
        connected: Notify::new(),
    };
    Ok(RedisLink::new(client, Arc::new(line), RESPONSE_TIMEOUT))
}

#[async_trait]
impl EventLog for RedisBroker {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn health(&self) -> StoreHealth {
        self.core.board().health()
    }

    async fn append(&self, events: Vec<AppendRequest>) -> Result<Vec<AcceptedEvent>, Error> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        self.core.may_accept()?;
        let heavy = self.core.heavy.load();
        if let Some((lane, waiting)) = events.iter().find_map(|event| heavy.get_key_value(&event.lane)) {
            let limit_bytes = self.core.max_lane_bytes();
            return Err(Error::LaneHeavy { lane: lane.clone(), waiting_bytes: *waiting, limit_bytes });
        }
        match self.appends.ask(AppendCall::encode(events)?).await {
            Ok(answer) => answer,
            Err(BatchError::QueueFull) => Err(Error::refused("more requests wait for Redis than it can take")),
            Err(BatchError::Ended) => Err(Error::unknown("the broker is closed")),
        }
    }

    async fn find_event(&self, id: EventId) -> Result<Option<FoundEvent>, Error> {
        self.core.event(id).await
    }

    async fn list_ended(&self, query: EndedQuery) -> Result<EndedPage, Error> {
        self.core.ended(query).await
    }

    async fn replay(&self, id: EventId, lane: &Lane) -> Result<ReplayOutcome, Error> {
        self.core.replay(id, lane).await
    }

    async fn stats(&self) -> Result<BrokerStats, Error> {
        self.core.stats().await
    }
}

#[async_trait]
impl WorkQueue for RedisBroker {
    async fn claim(&self, claim: ClaimRequest) -> Result<Vec<Delivery>, Error> {
        self.core.claim(claim, &self.waiter).await
    }

    async fn wait_for_work(&self, lanes: &[Lane]) -> Result<(), Error> {
        self.waiter.wait(&self.core, lanes).await
    }

    async fn settle(&self, batch: Vec<SettleRequest>) -> Result<Vec<SettleOutcome>, Error> {
        self.core.settle_all(batch).await
    }

    fn lease_renewal(&self) -> Arc<dyn LeaseRenewal> {
        Arc::new(RedisLeaseRenewal::new(self.core.clone()))
    }

    async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        self.core.recover(max).await
    }

    async fn promote(&self) -> Result<PromoteOutcome, Error> {
        self.core.promote().await
    }

    async fn maintain(&self) -> Result<bool, Error> {
        self.core.maintain().await
    }

    fn lanes(&self) -> Vec<Lane> {
        self.core.book().lanes.clone()
    }

    fn limit_lanes(&self, own: BTreeMap<Lane, u64>) {
        let limits = LaneLimits::new(self.core.limits.load().all(), own);
        self.core.limits.store(Arc::new(limits));
    }
}

#[async_trait]
impl ConsumerDirectory for RedisBroker {
    fn consumer(&self) -> &str {
        &self.core.consumer
    }

    async fn announce_coverage(&self, served: ConsumerCoverage) -> Result<(), Error> {
        self.core.serve(served).await
    }

    fn peer_coverage(&self) -> Arc<PeerCoverage> {
        self.core.elsewhere.load_full()
    }

    async fn refresh_peer_coverage(&self) -> Result<Arc<PeerCoverage>, Error> {
        self.core.look_elsewhere().await
    }
}

#[async_trait]
impl PluginStateReader for RedisBroker {
    async fn read_plugin_state(&self, plugin: &str, key: &str) -> Result<StoredValue, Error> {
        Ok(self.core.plugin_state(plugin, key).await?)
    }
}

#[async_trait]
impl PluginStateRemover for RedisBroker {
    async fn remove_plugin_state(&self, plugin: &str) -> Result<u64, Error> {
        Ok(self.core.remove_state(plugin).await?)
    }
}

#[async_trait]
impl StoreTransfer for RedisBroker {
    async fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, Error> {
        Ok(Box::new(RedisSnapshot::begin(self.core.clone()).await?))
    }

    async fn restore(&self, batch: Vec<SnapshotItem>) -> Result<Vec<RestoreOutcome>, Error> {
        self.core.restore(batch).await
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn close(&self) -> Result<(), Error> {
        self.ends.cancel();
        self.core.reap(&self.core.consumer).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_used_say_why_and_keep_their_password() {
        for (url, word) in [
            ("rediss://me:hunter2@host", "TLS"),
            ("redis-sentinel://host", "Sentinel"),
            ("redis-cluster://host", "cluster"),
            ("http://host", "redis://"),
            ("nonsense", "redis://"),
            ("redis://me:hunter2@host/notadatabase", "atabase"),
            ("redis://:hunter2", "redis://***"),
            ("redis://me:hun@ter2/a@host", "%2F"),
            ("redis://me:hun@ter2#a@host", "redis://***@host"),
            ("redis:me:hunter2@host", "redis://"),
        ] {
            let error = link_to(url).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("ter2"), "{error}");
        }
        assert!(link_to("redis://127.0.0.1:6379/3").is_ok());
    }
}
