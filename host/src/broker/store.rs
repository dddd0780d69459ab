//! The whole store, as the app opens and closes it, and the smaller parts that callers take from it.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    AuditNote, AuditStore, ConsumerCoverage, Error, EventLog, KeyStore, PauseStore, PeerCoverage, StoreTransfer,
    WorkQueue,
};
use crate::event::StoredValue;

/// A store with all its parts. The app opens it and hands each caller the part that it needs.
#[async_trait]
pub trait Broker:
    EventLog
    + WorkQueue
    + ConsumerDirectory
    + PluginStateReader
    + PluginStateRemover
    + KeyStore
    + PauseStore
    + AuditStore
    + StoreTransfer
{
    /// Ends this consumer. The store forgets it if it holds no delivery. Call nothing else afterwards.
    async fn close(&self) -> Result<(), Error>;
}

/// The consumers of a store: this one and its peers. A store that one process owns has no peers.
#[async_trait]
pub trait ConsumerDirectory: Send + Sync + 'static {
    /// The name of this consumer: the configured one, made unique for this start.
    fn consumer(&self) -> &str;

    /// Announces what this consumer serves from now on. Peers learn of it within about a second, and then leave alone
    /// what waits in lanes that only this consumer serves.
    ///
    /// # Errors
    /// The peers do not know yet; the next [`super::WorkQueue::maintain`] announces it again.
    async fn announce_coverage(&self, _coverage: ConsumerCoverage) -> Result<(), Error> {
        Ok(())
    }

    /// What the peers serve, as of the last [`super::WorkQueue::maintain`] or refresh. Never waits.
    ///
    /// A consumer counts while it lives, and for one lease after its end, at least ten seconds. So a restarted consumer
    /// finds its events still waiting.
    fn peer_coverage(&self) -> Arc<PeerCoverage> {
        Arc::default()
    }

    /// How many consumers serve the store, this one included, as of the same moment as [`Self::peer_coverage`].
    fn live_consumers(&self) -> u64 {
        1
    }

    /// Asks the store what the peers serve.
    async fn refresh_peer_coverage(&self) -> Result<Arc<PeerCoverage>, Error> {
        Ok(self.peer_coverage())
    }
}

/// Reads plugin state: the values that plugins keep under state keys. A settle writes them; see
/// [`super::SettleRequest::state`].
#[async_trait]
pub trait PluginStateReader: Send + Sync + 'static {
    /// The value of a state key, as of the last settle that wrote it.
    async fn read_plugin_state(&self, plugin: &str, state_key: &str) -> Result<StoredValue, Error>;
}

/// Removes plugin state.
#[async_trait]
pub trait PluginStateRemover: Send + Sync + 'static {
    /// Removes all state of a plugin, loaded or not, and returns the number of keys. Values that settles write
    /// meanwhile may stay. The first step that removes keys adds `audit` to the audit.
    async fn remove_plugin_state(&self, plugin: &str, audit: Option<&AuditNote>) -> Result<u64, Error>;
}
