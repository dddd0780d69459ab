//! The whole store, as the app opens and closes it.

use async_trait::async_trait;

use super::{ConsumerDirectory, Error, EventLog, PluginStateReader, PluginStateRemover, StoreTransfer, WorkQueue};

/// A store with all its parts. The app opens it and hands each caller the part that it needs.
#[async_trait]
pub trait Broker:
    EventLog + WorkQueue + ConsumerDirectory + PluginStateReader + PluginStateRemover + StoreTransfer
{
    /// Ends this consumer. The store forgets it if it holds no delivery. Call nothing else afterwards.
    async fn close(&self) -> Result<(), Error>;
}
