//! Where handlers read their plugins' state: the broker, asked on the worker's own runtime.
//!
//! Guests run on runtimes without sockets, and what they ask must not depend on where they run.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::broker::Broker;
use crate::event::Stored;
use crate::plugin::{ReadState, StateUnavailable};
use crate::shutdown::Tasks;

/// Reads that wait for their turn. Each guest has one at most, so that this is more than a host has.
const QUEUE: usize = 1_024;

/// Hands reads to the broker.
pub(super) struct Reads {
    queue: mpsc::Sender<Read>,
}

struct Read {
    plugin: String,
    key: String,
    answer: oneshot::Sender<Result<Stored, StateUnavailable>>,
}

impl Reads {
    /// Starts the task that asks the broker. It ends when this is dropped.
    pub(super) fn start(broker: Arc<dyn Broker>, tasks: &Tasks) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Read>(QUEUE);
        let reads = tasks.clone();
        tasks.spawn(async move {
            while let Some(Read { plugin, key, answer }) = waiting.recv().await {
                let broker = broker.clone();
                reads.spawn(async move {
                    let read = broker.plugin_state(&plugin, &key).await;
                    // The attempt may have ended meanwhile.
                    let _ = answer.send(read.map_err(|error| StateUnavailable(error.to_string())));
                });
            }
        });
        Self { queue }
    }
}

#[async_trait]
impl ReadState for Reads {
    async fn read(&self, plugin: &str, key: &str) -> Result<Stored, StateUnavailable> {
        let ended = || StateUnavailable("the host is stopping".into());
        let (answer, answered) = oneshot::channel();
        let read = Read { plugin: plugin.to_owned(), key: key.to_owned(), answer };
        self.queue.send(read).await.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}
