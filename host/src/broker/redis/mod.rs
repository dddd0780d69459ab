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

use self::append::Request;
use self::batch::{Batcher, Unanswered};
use self::board::Board;
use self::claim::Waiter;
use self::core::{Core, Parts};
use self::fault::{Cause, Failure};
use self::gate::Gate;
use self::leases::RedisLeases;
use self::link::{Line, Link, RESPONSE_TIMEOUT};
#[cfg(feature = "test-util")]
pub use self::mutant::{Mutant, UnknownMutant};
use self::scripts::Scripts;
use self::settle::MAX_CALL_BYTES;
use self::snapshot::RedisSnapshot;
use super::{
    Accepted, Append, Broker, Claim, Delivery, Elsewhere, EndedPage, EndedQuery, Error, Exported, Found, Health, Lane,
    LaneLimits, Leases, Options, Promoted, Replayed, Restored, Served, Settle, Settled, Snapshot, Stats,
};
use crate::event::{EventId, Stored};
use crate::secret::{SecretText, ShownUrl};
use crate::shutdown::Tasks;

/// What is the same for every deployment, but not for every test.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How often the settings and the data of Redis are looked at, in milliseconds.
    pub look_every_ms: u64,
    /// Processed events are kept at least so long, in milliseconds, whatever the retention says: a repetition of a call
    /// whose answer was lost is recognised by what the first one left.
    pub least_retention_ms: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { look_every_ms: 10_000, least_retention_ms: 15_000 }
    }
}

/// Why the broker could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
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
    core: Arc<Core>,
    appends: Batcher<Request, Result<Vec<Accepted>, Error>>,
    waiter: Waiter,
    ends: CancellationToken,
    _ends_with_this: DropGuard,
}

impl RedisBroker {
    /// Connects, checks the server, makes what is missing, and starts the background work in `tasks`. That work ends
    /// with [`Broker::close`] or when the broker is dropped, not before: it is needed until the last settle.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is retried here.
    pub async fn open(url: &str, options: Options, tasks: &Tasks) -> Result<Arc<Self>, OpenError> {
        Self::open_tuned(url, options, Tuning::default(), tasks).await
    }

    /// As [`Self::open`], with other than the usual periods.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_tuned(
        url: &str,
        options: Options,
        tuning: Tuning,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        let link = link_to(url)?;
        let parts = Parts {
            options,
            tuning,
            scripts: Scripts::new(),
            link,
            #[cfg(feature = "test-util")]
            mutant: None,
        };
        Self::start(Core::new(parts), tasks).await
    }

    /// As [`Self::open`], with a guarantee broken on purpose.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[cfg(feature = "test-util")]
    pub async fn open_mutant(
        url: &str,
        options: Options,
        mutant: Mutant,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        let (tuning, scripts) = (Tuning::default(), Scripts::broken_by(mutant));
        let parts = Parts { options, tuning, scripts, link: link_to(url)?, mutant: Some(mutant) };
        Self::start(Core::new(parts), tasks).await
    }

    /// The digest by which a script is seen on the wire: `append`, `claim`, `settle` and so on.
    #[cfg(feature = "test-util")]
    pub fn script_digest(&self, name: &str) -> Option<&str> {
        self.core.scripts.digest_of(name)
    }

    async fn start(core: Core, tasks: &Tasks) -> Result<Arc<Self>, OpenError> {
        prepare(&core).await?;
        let core = Arc::new(core);
        let ends = CancellationToken::new();
        tasks.spawn(core.clone().keep_looking(ends.clone()));
        let for_appends = core.clone();
        let appends = Batcher::start(tasks, ends.clone(), MAX_CALL_BYTES, Request::weight, move |requests| {
            let core = for_appends.clone();
            async move { core.append_together(requests).await }
        });
        let waiter = Waiter::new(&core.link);
        let _ends_with_this = ends.clone().drop_guard();
        Ok(Arc::new(Self { core, appends, waiter, ends, _ends_with_this }))
    }
}

/// Begins to read the store at a URL without becoming a consumer of it: nothing is written, and settings that may lose
/// data are no reason to refuse, since they are a reason to move.
///
/// # Errors
/// See [`OpenError`]. Nothing is retried here.
pub async fn snapshot(url: &str, options: Options) -> Result<Box<dyn Snapshot>, OpenError> {
    let parts = Parts {
        options,
        tuning: Tuning::default(),
        scripts: Scripts::new(),
        link: link_to(url)?,
        #[cfg(feature = "test-util")]
        mutant: None,
    };
    let core = Arc::new(Core::new(parts));
    let refused = |failure| refused(&core, failure);
    if let Some(why) = core.inspect_server().await.map_err(refused)?.unsupported {
        return Err(OpenError::Unsupported(why));
    }
    Ok(Box::new(RedisSnapshot::begin(core.clone()).await.map_err(refused)?))
}

/// Why a store could not be opened, from the first call that failed.
fn refused(core: &Core, failure: Failure) -> OpenError {
    let said = &failure.message;
    match failure.reaction.cause {
        Cause::Denied if said.contains("NOAUTH") || said.contains("WRONGPASS") => OpenError::Misconfigured(format!(
            "Redis at {} wants a password, or another one: give it in the URL, redis://:PASSWORD@HOST:PORT ({said})",
            core.link.line().address
        )),
        Cause::Unreachable if said.contains("DB index is out of range") => OpenError::Misconfigured(format!(
            "Redis at {} has no database of the number that ends the URL: {said}",
            core.link.line().address
        )),
        Cause::Denied | Cause::Misplaced | Cause::NoRoom => OpenError::Misconfigured(failure.message),
        Cause::Demoted => OpenError::Unsupported(failure.message),
        Cause::NoReplicas | Cause::CannotPersist | Cause::Busy => {
            OpenError::Refusing { address: core.link.line().address.clone(), reason: board::explained(&failure) }
        }
        _ => {
            let address = core.link.line().address.clone();
            let reason = failure.message.strip_prefix(&link::unreachable(&address)).unwrap_or(&failure.message);
            OpenError::Unreachable { reason: reason.to_owned(), address }
        }
    }
}

/// What has to be so before the first call.
async fn prepare(core: &Core) -> Result<(), OpenError> {
    let refused = |failure| refused(core, failure);
    let verdict = core.inspect_server().await.map_err(refused)?;
    if let Some(why) = verdict.unsupported {
        return Err(OpenError::Unsupported(why));
    }
    if let Some(why) = verdict.unsafe_settings.filter(|_| !core.options.allow_unsafe) {
        return Err(OpenError::Unsafe(why));
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
fn link_to(url: &str) -> Result<Link, OpenError> {
    let bad = |reason: &str| OpenError::BadUrl { url: ShownUrl(url).to_string(), reason: reason.to_owned() };
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
    let line = Line { address, password, gate: Gate::default(), board: Board::new(), connected: Notify::new() };
    Ok(Link::new(client, Arc::new(line), RESPONSE_TIMEOUT))
}

#[async_trait]
impl Broker for RedisBroker {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn consumer(&self) -> &str {
        &self.core.consumer
    }

    fn health(&self) -> Health {
        self.core.board().health()
    }

    async fn append(&self, events: Vec<Append>) -> Result<Vec<Accepted>, Error> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        self.core.may_accept()?;
        let heavy = self.core.heavy.load();
        if let Some((lane, waiting)) = events.iter().find_map(|event| heavy.get_key_value(&event.lane)) {
            let limit_bytes = self.core.max_lane_bytes();
            return Err(Error::LaneHeavy { lane: lane.clone(), waiting_bytes: *waiting, limit_bytes });
        }
        match self.appends.ask(Request::encode(events)?).await {
            Ok(answer) => answer,
            Err(Unanswered::QueueFull) => Err(Error::refused("more requests wait for Redis than it can take")),
            Err(Unanswered::Ended) => Err(Error::unknown("the broker is closed")),
        }
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Delivery>, Error> {
        self.core.claim(claim, &self.waiter).await
    }

    async fn wait(&self, lanes: &[Lane]) -> Result<(), Error> {
        self.waiter.wait(&self.core, lanes).await
    }

    async fn settle(&self, batch: Vec<Settle>) -> Result<Vec<Settled>, Error> {
        self.core.settle_all(batch).await
    }

    async fn serve(&self, served: Served) -> Result<(), Error> {
        self.core.serve(served).await
    }

    fn elsewhere(&self) -> Arc<Elsewhere> {
        self.core.elsewhere.load_full()
    }

    async fn look_elsewhere(&self) -> Result<Arc<Elsewhere>, Error> {
        self.core.look_elsewhere().await
    }

    fn leases(&self) -> Arc<dyn Leases> {
        Arc::new(RedisLeases::new(self.core.clone()))
    }

    async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        self.core.recover(max).await
    }

    async fn promote(&self) -> Result<Promoted, Error> {
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

    async fn plugin_state(&self, plugin: &str, key: &str) -> Result<Stored, Error> {
        Ok(self.core.plugin_state(plugin, key).await?)
    }

    async fn remove_state(&self, plugin: &str) -> Result<u64, Error> {
        Ok(self.core.remove_state(plugin).await?)
    }

    async fn event(&self, id: EventId) -> Result<Option<Found>, Error> {
        self.core.event(id).await
    }

    async fn ended(&self, query: EndedQuery) -> Result<EndedPage, Error> {
        self.core.ended(query).await
    }

    async fn replay(&self, id: EventId, lane: &Lane) -> Result<Replayed, Error> {
        self.core.replay(id, lane).await
    }

    async fn stats(&self) -> Result<Stats, Error> {
        self.core.stats().await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        Ok(Box::new(RedisSnapshot::begin(self.core.clone()).await?))
    }

    async fn restore(&self, batch: Vec<Exported>) -> Result<Vec<Restored>, Error> {
        self.core.restore(batch).await
    }

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
