//! What all plugins of a registry run on.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::executor::GuestExecutor;
use crate::plugin::component::compile_tracks::CompileTracks;
use crate::plugin::sandbox::ticker::EpochTicker;

/// What all plugins of a registry run on. It ends when the last plugin is dropped.
#[derive(Debug)]
pub(in crate::plugin) struct GuestRuntime {
    // Declared before the ticker and so dropped first: without ticks a busy guest would delay the end of the executor.
    pub(in crate::plugin) executor: GuestExecutor,
    pub(in crate::plugin) ticker: EpochTicker,
    /// One permit for each memory that running attempts may use.
    pub(in crate::plugin) attempts: Arc<Semaphore>,
    /// Decides which plugin is loaded next.
    pub(in crate::plugin) tracks: CompileTracks,
}
