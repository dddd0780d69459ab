//! The broker of one machine: a durable log in one SQLite database, in a directory that one process owns.
//!
//! Every transition is a durable transaction. One thread writes, and commits waiting jobs as a group ([`writer`]).
//! Leases are in memory, since they end with the process ([`leases`]). Readers see the last commit beside the writer
//! ([`store`]). Due times use the wall clock: when it is set back events become due later, when it is set forward
//! earlier.

mod append;
mod audit;
mod audit_store;
mod broker;
mod bulk_insert;
mod claim;
mod columns;
mod event_state;
mod history;
mod keys;
mod leases;
mod open;
mod pauses;
mod plugin_state;
mod restore;
mod retention;
mod row_size;
mod settle;
mod snapshot;
mod step;
mod store;
#[cfg(test)]
mod tests;
mod totals;
mod waiting;
mod writer;

pub use broker::EmbeddedBroker;
pub use open::EmbeddedOpenError;
pub use snapshot::{SnapshotError, snapshot};
pub use store::{BackupError, backup};
