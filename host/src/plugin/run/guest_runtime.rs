//! What all plugins of a registry run on.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::executor::GuestExecutor;
use crate::plugin::component::compile_tracks::CompileTracks;
use crate::plugin::sandbox::ticker::EpochTicker;

/// What all plugins of a registry run on. Ended when the last of them has gone.
#[derive(Debug)]
pub(in crate::plugin) struct GuestRuntime {
    // Before the ticker: a guest that nobody interrupts would hold up the end of the executor.
    pub(in crate::plugin) executor: GuestExecutor,
    pub(in crate::plugin) ticker: EpochTicker,
    /// A permit for each memory of the attempts that may run side by side.
    pub(in crate::plugin) attempts: Arc<Semaphore>,
    /// Whose turn it is to be loaded.
    pub(in crate::plugin) tracks: CompileTracks,
}
