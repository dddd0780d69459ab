//! Plugin state: the values that plugins keep under state keys. A settle writes them; see
//! [`super::SettleRequest::state`].

use async_trait::async_trait;

use super::Error;
use crate::event::StoredValue;

/// Reads plugin state.
#[async_trait]
pub trait PluginStateReader: Send + Sync + 'static {
    /// The value of a state key, as of the last settle that wrote it.
    async fn read_plugin_state(&self, plugin: &str, state_key: &str) -> Result<StoredValue, Error>;
}

/// Removes plugin state.
#[async_trait]
pub trait PluginStateRemover: Send + Sync + 'static {
    /// Removes all state of a plugin, loaded or not, and returns the number of keys. Values that settles write
    /// meanwhile may stay.
    async fn remove_plugin_state(&self, plugin: &str) -> Result<u64, Error>;
}
