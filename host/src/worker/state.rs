//! Where handlers read their plugins' state: the broker, asked on the worker's own runtime.
//!
//! Guests run on runtimes without sockets, and what they ask must not depend on where they run.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::broker::PluginStateReader;
use crate::event::StoredValue;
use crate::plugin::{StateReader, StateUnavailable};
use crate::shutdown::TaskGroup;

/// Reads that wait for their turn. Each guest has one at most, so that this is more than a host has.
const QUEUE: usize = 1_024;

/// Hands reads to the broker.
pub(super) struct StateReads {
    queue: mpsc::Sender<StateRead>,
}

struct StateRead {
    plugin: String,
    key: String,
    answer: oneshot::Sender<Result<StoredValue, StateUnavailable>>,
}

impl StateReads {
    /// Starts the task that asks the broker. It ends when this is dropped.
    pub(super) fn start(broker: Arc<dyn PluginStateReader>, tasks: &TaskGroup) -> Self {
        let (queue, mut waiting) = mpsc::channel::<StateRead>(QUEUE);
        let reads = tasks.clone();
        tasks.spawn(async move {
            while let Some(StateRead { plugin, key, answer }) = waiting.recv().await {
                let broker = broker.clone();
                reads.spawn(async move {
                    let read = broker.read_plugin_state(&plugin, &key).await;
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
    async fn read(&self, plugin: &str, key: &str) -> Result<StoredValue, StateUnavailable> {
        let ended = || StateUnavailable("the host is stopping".into());
        let (answer, answered) = oneshot::channel();
        let read = StateRead { plugin: plugin.to_owned(), key: key.to_owned(), answer };
        self.queue.send(read).await.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}
