//! The durable log with leases, and what it promises to everyone above it.
//!
//! The numbers G1 to G12 are those of the contract. Every implementation is held to them by one suite, `contract`.
//!
//! - **G1** [`Broker::append`] answers after the events are as durable as [`Health::durability`] says.
//! - **G2** What was appended reaches one end. Nothing that has not ended is ever trimmed or expires.
//! - **G3** [`Broker::settle`] is one atomic step for each delivery: the end or the retry, the published events, the
//!   writes to the plugin's state, the counters and the acknowledgement take effect together or not at all.
//! - **G4** A [`Receipt`] whose delivery passed to another consumer changes nothing; its holder is told
//!   [`Settled::Lost`].
//! - **G5** A due time is kept by the store's clock, is never early, and survives restarts.
//! - **G6** An event with an [`Idempotency`] that is known within the window is not appended again.
//! - **G7** Deliveries whose consumer died are handed out by [`Broker::recover`] after the lease.
//! - **G11** A store that lost data is noticed: [`Health::ready`] turns false for a while and a counter goes up.
//!
//! All methods work on batches. None of them may be dropped half-way by a caller that cares for the answer, but doing so
//! harms nothing: what was under way takes effect or does not, and a lease that nobody renews ends.

mod bad_entry;
#[cfg(any(test, feature = "test-util"))]
#[expect(clippy::expect_used, clippy::panic, reason = "a case fails by panicking; none of it is in the product")]
pub mod contract;
pub mod embedded;
mod limits;
mod list_limit;
pub mod redis;
mod served;
mod snapshot;
mod turns;
mod types;

pub use limits::LaneLimits;
pub use served::{ConsumerCoverage, PeerCoverage};
pub use snapshot::{
    ExportedEvent, ExportedKey, ExportedState, RestoreOutcome, SnapshotItem, SnapshotPart, SnapshotReader,
};
pub use types::{
    AcceptedEvent, AppendRequest, BrokerOptions, BrokerStats, ClaimRequest, Delivery, Durability, EndKind, EndedPage,
    EndedQuery, EventCounters, FoundEvent, Lane, LaneDemand, MAX_PAGE_BYTES, PromoteOutcome, QueueDepth, Receipt,
    ReplayOutcome, RetentionLimits, SettleOutcome, SettleRequest, StoreHealth,
};

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

#[cfg(doc)]
use crate::event::Idempotency;
use crate::event::{EventId, StoredValue};

/// The durable log. See the module for what it guarantees.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// How the broker is called in answers and logs: `Redis` or `embedded`.
    fn name(&self) -> &'static str;

    /// The name of this consumer: the configured one made unique for this start.
    fn consumer(&self) -> &str;

    /// Whether the store can be worked with, and how durable it is. Kept up to date in the background; never waits.
    fn health(&self) -> StoreHealth;

    /// Appends events: all of them or none. The answers stand in the order of the events.
    ///
    /// # Errors
    /// [`Error::Conflict`] if an idempotency key is known with another body, [`Error::LaneFull`] past the limit of a plugin and
    /// [`Error::Full`] past that of all: nothing was appended. [`Error::Unavailable`] with `outcome_known` false: they may have been, or may yet be; repeat with
    /// the same idempotency keys.
    async fn append(&self, events: Vec<AppendRequest>) -> Result<Vec<AcceptedEvent>, Error>;

    /// Takes deliveries that wait, at most as many of each lane as it is wanted and `max` in all, shared out fairly in
    /// the order of the request. Answers at once, with nothing if nothing waits.
    async fn claim(&self, claim: ClaimRequest) -> Result<Vec<Delivery>, Error>;

    /// Ends when a delivery may be waiting in one of the lanes, and after about a second in any case. May end early.
    async fn wait(&self, lanes: &[Lane]) -> Result<(), Error>;

    /// Ends attempts. May be repeated with the same receipts when the answer was lost: what took effect the first time
    /// is answered with [`Settled::Done`] again and does not take effect twice. The answers stand in the order asked.
    /// After [`Settled::Conflict`] the delivery is held as before.
    async fn settle(&self, batch: Vec<SettleRequest>) -> Result<Vec<SettleOutcome>, Error>;

    /// Says what this consumer serves from now on. Other consumers learn of it within about a second, and leave alone what
    /// waits in lanes that are served by this one and not by them. A store that one consumer has to itself has no others.
    ///
    /// # Errors
    /// It was not told yet; [`Broker::maintain`] tells it as well.
    async fn serve(&self, _served: ConsumerCoverage) -> Result<(), Error> {
        Ok(())
    }

    /// What the other consumers serve, as far as is known. Kept up to date by [`Broker::maintain`]; never waits. A consumer
    /// counts for as long as it lives, and after its end for a lease more, or ten seconds if that is longer: one that is
    /// started anew is to find its events waiting.
    fn elsewhere(&self) -> Arc<PeerCoverage> {
        Arc::default()
    }

    /// The same, asked now.
    async fn look_elsewhere(&self) -> Result<Arc<PeerCoverage>, Error> {
        Ok(self.elsewhere())
    }

    /// What renews leases. It has a connection of its own and may be used on another runtime than the broker's.
    fn leases(&self) -> Arc<dyn LeaseRenewal>;

    /// Takes over up to `max` deliveries of consumers that died or lost touch, and of this consumer's own where the
    /// answer to a claim never arrived. Their `deliveries` count has gone up. What stands in a lane that others serve and
    /// this consumer does not is left to them.
    async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error>;

    /// Moves events that are due to their lanes. To be called again while `more` says so, else when `next_due_in_ms`
    /// has passed.
    async fn promote(&self) -> Result<PromoteOutcome, Error>;

    /// House-keeping that is not urgent: trims ended events past their retention, forgets dead consumers that hold
    /// nothing, reads the lanes that others made, shows that this consumer is alive. To be called every second or so,
    /// and at least four times in a lease; again at once where it is true that there is more to do, since what ends faster
    /// than it is trimmed would fill the store.
    async fn maintain(&self) -> Result<bool, Error>;

    /// The lanes that exist in the store, whether or not a plugin of this host belongs to them.
    fn lanes(&self) -> Vec<Lane>;

    /// How many events of these lanes may wait; each other lane may have a fifth of what may wait in all. Takes the place
    /// of what was said before.
    fn limit_lanes(&self, own: BTreeMap<Lane, u64>);

    /// What a plugin keeps under a key, as of the last settle that wrote it.
    async fn plugin_state(&self, plugin: &str, key: &str) -> Result<StoredValue, Error>;

    /// Forgets everything that a plugin keeps, whether or not there is such a plugin, and says how many keys that were. What
    /// is written meanwhile may stay.
    async fn remove_state(&self, plugin: &str) -> Result<u64, Error>;

    /// One event in whatever state.
    async fn event(&self, id: EventId) -> Result<Option<FoundEvent>, Error>;

    /// Ended events, newest first. What a page looks at is bounded, whatever is asked for: it may end early.
    ///
    /// # Errors
    /// [`Error::BadCursor`]; [`Error::Busy`] if too many lists are being read.
    async fn ended(&self, query: EndedQuery) -> Result<EndedPage, Error>;

    /// Puts a failed event back to work in a lane, with its story.
    async fn replay(&self, id: EventId, lane: &Lane) -> Result<ReplayOutcome, Error>;

    /// Totals that survive restarts, and how much waits where.
    async fn stats(&self) -> Result<BrokerStats, Error>;

    /// Begins to read everything that another store can go on with: what has not ended, what failed, and the idempotency
    /// keys. Nothing is changed or held up by it. Each thing is there once; what moves or ends while it is read may be
    /// there twice or not at all, unless the implementation says that its snapshots are of one moment.
    async fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, Error>;

    /// Takes over what another store held, each thing by itself, in the order asked; the answers stand in that order.
    /// An event that is known by its id, in whatever state, is left as it is, and so is a key that is remembered: doing it
    /// again changes nothing. Events go to the ends of their lanes or wait until they are due, failed ones are kept as
    /// such. All of them count as accepted, the failed ones as failed too. There is no depth limit, since they were
    /// accepted before.
    ///
    /// # Errors
    /// [`Error::NoRoom`] and the others as for [`Broker::append`]: any part of the batch may have been taken over. Repeat
    /// all of it, but not after [`Error::Unsafe`], which says that what was taken over before may be lost.
    async fn restore(&self, batch: Vec<SnapshotItem>) -> Result<Vec<RestoreOutcome>, Error>;

    /// Says good-bye: this consumer is forgotten if it holds nothing. Nothing else may be called afterwards.
    async fn close(&self) -> Result<(), Error>;
}

/// Renews leases; see [`Broker::leases`].
#[async_trait]
pub trait LeaseRenewal: Send + Sync + 'static {
    /// Renews the leases of these deliveries and gives back the receipts that are no longer held: their handlers should
    /// be cancelled, their outcomes will change nothing. Never takes a delivery back from another consumer.
    ///
    /// # Errors
    /// The store could not be asked: nothing is known, so go on and ask again.
    async fn renew(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, Error>;
}

/// Why the broker did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached, refuses, or did not answer in time. Passes by itself; try again later.
    #[error("{reason}")]
    Unavailable {
        /// What the store or the connection said, as a fragment.
        reason: String,
        /// False if what was asked may have taken effect all the same.
        outcome_known: bool,
    },
    /// As many events wait as are allowed to.
    #[error("{waiting} events wait, and no more than {limit} may (broker.max_waiting)")]
    Full {
        /// Events that wait, are due later or are being handled.
        waiting: u64,
        /// The configured limit.
        limit: u64,
    },
    /// As many events wait for one plugin as are allowed to. Those of other plugins are taken.
    #[error("{}", limits::lane_full(lane, *waiting, *limit))]
    LaneFull {
        /// The lane of the plugin.
        lane: Lane,
        /// Its events that wait, are due later or are being handled.
        waiting: u64,
        /// How many may.
        limit: u64,
    },
    /// The events that wait for one plugin take as much as they may. Those of other plugins are taken.
    #[error("{}", limits::lane_heavy(lane, *waiting_bytes, *limit_bytes))]
    LaneHeavy {
        /// The lane of the plugin.
        lane: Lane,
        /// What its events take that wait, are due later or are being handled.
        waiting_bytes: u64,
        /// What they may take.
        limit_bytes: u64,
    },
    /// The store has no room for more events; what is there can be worked off.
    #[error("the store has no room left: {0}")]
    NoRoom(String),
    /// More is asked for at the same time than the store is asked for. Nothing was done; try again later.
    #[error("{0}")]
    Busy(String),
    /// The idempotency keys of these events, by their place in the batch, are known with other bodies.
    #[error("an idempotency key was used before with another body")]
    Conflict(Vec<usize>),
    /// The cursor of a query is not one that this broker gave.
    #[error("the cursor is not one that was given as nextCursor")]
    BadCursor,
    /// The store holds something where our data should be, or does not let us in. A person has to act.
    #[error("{0}")]
    Misconfigured(String),
    /// The store's settings or data are not what was promised (G1, G11), so nothing is accepted until they are.
    #[error("{0}")]
    Unsafe(String),
}

impl Error {
    /// The store did not do it, and will not have.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), outcome_known: true }
    }

    /// It is not known whether the store did it.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), outcome_known: false }
    }

    /// Whether the same call may succeed later without a person acting.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::Full { .. }
                | Self::LaneFull { .. }
                | Self::LaneHeavy { .. }
                | Self::NoRoom(_)
                | Self::Unsafe(_)
                | Self::Busy(_)
        )
    }
}
