//! Reads plugin state for handlers.
//!
//! Guests run on runtimes without sockets, so the broker is asked on the worker's own runtime.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::broker::PluginStateReader;
use crate::event::StoredValue;
use crate::plugin::{StateReader, StateUnavailable};
use crate::shutdown::TaskGroup;

/// How many reads may wait. Each guest has at most one open read, and a host has fewer guests.
const MAX_WAITING_READS: usize = 1_024;

/// Hands reads of plugin state to the broker.
pub(super) struct StateReads {
    queue: mpsc::Sender<StateRead>,
}

struct StateRead {
    plugin: String,
    state_key: String,
    answer: oneshot::Sender<Result<StoredValue, StateUnavailable>>,
}

impl StateReads {
    /// Starts the task that asks the broker. The task ends when this value is dropped.
    pub(super) fn start(broker: Arc<dyn PluginStateReader>, tasks: &TaskGroup) -> Self {
        let (queue, mut waiting) = mpsc::channel::<StateRead>(MAX_WAITING_READS);
        let reads = tasks.clone();
        tasks.spawn(async move {
            while let Some(StateRead { plugin, state_key, answer }) = waiting.recv().await {
                let broker = broker.clone();
                reads.spawn(async move {
                    let read = broker.read_plugin_state(&plugin, &state_key).await;
                    // The attempt may have ended meanwhile.
                    let _ = answer.send(read.map_err(|error| StateUnavailable(error.to_string())));
                });
            }
        });
        Self { queue }
    }
}

#[async_trait]
impl StateReader for StateReads {
    async fn read(&self, plugin: &str, state_key: &str) -> Result<StoredValue, StateUnavailable> {
        let stopping = || StateUnavailable("the host is stopping".into());
        let (answer, answered) = oneshot::channel();
        let read = StateRead { plugin: plugin.to_owned(), state_key: state_key.to_owned(), answer };
        self.queue.send(read).await.map_err(|_| stopping())?;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }
}
