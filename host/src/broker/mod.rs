//! The durable log with leases: the traits that callers use, and the two stores that implement them.
//!
//! Callers take the part that they need: [`EventLog`], [`WorkQueue`], [`ConsumerDirectory`], [`PluginStateReader`],
//! [`PluginStateRemover`], [`KeyStore`], [`PauseStore`], [`AuditStore`] or [`StoreTransfer`]. [`Broker`] is all of them.
//!
//! The numbers G1 to G12 are those of the contract. The suite `contract` tests every store for them.
//!
//! - **G1** [`EventLog::append`] answers when the events are as durable as [`StoreHealth::durability`] says.
//! - **G2** Every appended event reaches one end. An event that has not ended is never deleted.
//! - **G3** [`WorkQueue::settle`] is one atomic step for each delivery. The end or the retry, the published events, the
//!   plugin state, the counters and the acknowledgement take effect together or not at all.
//! - **G4** A [`Receipt`] changes nothing after its delivery passed to another consumer; the answer is
//!   [`SettleOutcome::Lost`].
//! - **G5** The store's clock decides when an event is due. No event is delivered early, and due times survive restarts.
//! - **G6** An event whose [`Idempotency`] key is known within its window is not appended again.
//! - **G7** [`WorkQueue::recover`] hands out the deliveries of a dead consumer: those of a process that is known to be gone
//!   at once, others after their lease.
//! - **G11** A store that lost data notices it: [`StoreHealth::ready`] turns false for a while, and a counter goes up.
//!
//! Every method works on a batch. Dropping a future is safe: the call takes effect or does not, and a lease that nobody
//! renews ends.

mod audit;
mod bad_entry;
#[cfg(any(test, feature = "test-util"))]
#[expect(clippy::expect_used, clippy::panic, reason = "a case fails by panicking; none of it is in the product")]
pub mod contract;
mod coverage;
pub mod embedded;
mod error;
mod event_log;
mod fair_share;
mod health;
mod key_share;
mod keys;
mod lane;
mod lane_bytes;
mod lane_limits;
mod list_limiter;
mod options;
mod pause_board;
mod pauses;
pub mod redis;
mod store;
mod transfer;
mod work_queue;

pub use audit::{AuditAction, AuditEntry, AuditNote, AuditPage, AuditQuery, AuditStore};
pub use coverage::{ConsumerCoverage, PeerCoverage};
pub use error::Error;
pub use event_log::{
    AcceptedEvent, AppendRequest, EndKind, EndedPage, EndedQuery, EventLog, FailedEventChange, FoundEvent,
    MAX_PAGE_BYTES, WaitingEventChange,
};
pub use health::{BrokerStats, Durability, EventCounters, QueueDepth, StoreHealth};
pub use keys::{KeySet, KeyStore, KeyWrite, KeyWriteOutcome, MAX_STORED_KEYS, StoredKey};
pub use lane::{InvalidLane, Lane};
pub use lane_bytes::ATTEMPTS_ROOM_BYTES;
pub(crate) use lane_bytes::lane_level_bytes;
pub use lane_limits::LaneLimits;
pub use options::{BrokerOptions, RetentionLimits, StoreKind, TlsFiles};
pub use pause_board::PauseBoard;
pub use pauses::{MAX_STORED_PAUSES, PauseNote, PauseOutcome, PauseStore, PluginPause};
pub use store::{Broker, ConsumerDirectory, PluginStateReader, PluginStateRemover};
pub use transfer::{
    ExportedEvent, ExportedKey, ExportedState, RestoreOutcome, SnapshotItem, SnapshotPart, SnapshotReader,
    StoreTransfer,
};
pub use work_queue::{
    ClaimRequest, Delivery, LaneDemand, LeaseRenewal, PromoteOutcome, Receipt, SettleOutcome, SettleRequest, WorkQueue,
};

#[cfg(doc)]
use crate::event::Idempotency;
