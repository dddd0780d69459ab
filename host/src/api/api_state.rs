//! What the handlers work with.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::broker::{ConsumerDirectory, EventLog, PluginStateRemover};
use crate::telemetry::UnwrittenLines;

use super::memory_budget::MemoryBudget;
use super::options::ServerOptions;
use super::plugin_control::PluginControl;

/// The parts of the program that the handlers call.
#[derive(Clone)]
pub struct ApiState {
    /// The event log.
    pub event_log: Arc<dyn EventLog>,
    /// This consumer and its peers.
    pub consumers: Arc<dyn ConsumerDirectory>,
    /// Deletes the state of removed plugins.
    pub plugin_state: Arc<dyn PluginStateRemover>,
    /// The plugins.
    pub plugins: Arc<dyn PluginControl>,
    /// The limits of requests.
    pub options: ServerOptions,
    /// The memory of bodies, heads and answers in progress.
    pub memory: MemoryBudget,
    /// Cancelled when the server stops. It is not ready from then on.
    pub stopping: CancellationToken,
    /// Counts the lines that this host did not write to its log.
    pub unwritten_lines: UnwrittenLines,
}
