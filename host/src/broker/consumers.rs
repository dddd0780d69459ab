//! The consumers of a store: this one and its peers.

use std::sync::Arc;

use async_trait::async_trait;

use super::{ConsumerCoverage, Error, PeerCoverage};

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

    /// Asks the store what the peers serve.
    async fn refresh_peer_coverage(&self) -> Result<Arc<PeerCoverage>, Error> {
        Ok(self.peer_coverage())
    }
}
