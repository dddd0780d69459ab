//! Ends attempts: collects what is to be settled into batches and sees each through.
//!
//! What arrives while batches are under way forms the next one, so that an idle host settles at once and a busy one
//! in large batches, without a timer. A settle that got no answer is repeated until it gets one; the broker knows a
//! repetition when it sees one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::broker::{Broker, Error, Settle, Settled};
use crate::shutdown::Tasks;

/// The most settles in one call: scripts stay short, and a call answers soon.
const MAX_BATCH: usize = 100;
/// Calls under way at the same time: one is worked on by the store while the next one travels.
const MAX_CALLS: usize = 2;
/// Settles that wait for their turn; more than a host has slots.
const QUEUE: usize = 1_024;

type Answer = Result<Settled, Error>;

/// Hands settles to the batches.
#[derive(Clone)]
pub(super) struct Settler {
    queue: mpsc::Sender<(Settle, oneshot::Sender<Answer>)>,
}

impl Settler {
    /// Starts the task that forms batches. It ends when every `Settler` is gone.
    pub(super) fn start(broker: Arc<dyn Broker>, tasks: &Tasks) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let batches = tasks.clone();
        tasks.spawn(form_batches(broker, waiting, batches));
        Self { queue }
    }

    /// Settles once; see [`Broker::settle`]. The error is this settle's own: of a batch that failed, each is tried alone.
    pub(super) async fn settle(&self, settle: Settle) -> Answer {
        let (answer, answered) = oneshot::channel();
        let ended = || Error::unknown("the host is stopping");
        self.queue.send((settle, answer)).await.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Settles, again and again for as long as the store is away or refuses. Ends by itself only with an answer, so race
    /// it with whatever makes the answer worthless.
    pub(super) async fn settle_for_sure(&self, settle: Settle) -> Settled {
        let mut pause = Backoff::default();
        loop {
            match self.settle(settle.clone()).await {
                Ok(settled) => return settled,
                Err(error) => {
                    tracing::warn!(event.id = %settle.receipt.event_id, "attempt not settled yet: {error}");
                    tokio::time::sleep(pause.next()).await;
                }
            }
        }
    }
}

async fn form_batches(
    broker: Arc<dyn Broker>,
    mut waiting: mpsc::Receiver<(Settle, oneshot::Sender<Answer>)>,
    tasks: Tasks,
) {
    let calls = Arc::new(Semaphore::new(MAX_CALLS));
    loop {
        let Ok(call) = calls.clone().acquire_owned().await else { return };
        let mut batch = Vec::new();
        if waiting.recv_many(&mut batch, MAX_BATCH).await == 0 {
            return;
        }
        let broker = broker.clone();
        tasks.spawn(async move {
            settle_batch(broker.as_ref(), batch).await;
            drop(call);
        });
    }
}

async fn settle_batch(broker: &dyn Broker, batch: Vec<(Settle, oneshot::Sender<Answer>)>) {
    let (settles, answers): (Vec<Settle>, Vec<_>) = batch.into_iter().unzip();
    let results = match broker.settle(settles.clone()).await {
        Ok(settled) => settled.into_iter().map(Ok).collect(),
        Err(error) if error.is_transient() || settles.len() == 1 => vec![Err(error); settles.len()],
        // One of them met something that a person has to mend; the others must not wait for that.
        Err(_) => join_all(settles.into_iter().map(|settle| settle_alone(broker, settle))).await,
    };
    for (answer, result) in answers.into_iter().zip(results) {
        // Whoever asked may have lost its lease meanwhile and gone.
        let _ = answer.send(result);
    }
}

async fn settle_alone(broker: &dyn Broker, settle: Settle) -> Answer {
    let settled = broker.settle(vec![settle]).await?;
    settled.first().copied().ok_or_else(|| Error::unknown("the broker gave no answer"))
}

/// Pauses that double from 50 ms to 2 s, each spread by up to a half.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after another failure.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling_ms = (50_u64 << self.failures.min(6)).min(2_000);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(ceiling_ms / 2 + fastrand::u64(0..=ceiling_ms / 2))
    }

    /// It went well: the next pause is short again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_and_start_again_after_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..20).map(|_| backoff.next().as_millis()).collect();
        assert!((25..=50).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| (1_000..=2_000).contains(pause)), "{pauses:?}");
        backoff.reset();
        assert!(backoff.next().as_millis() <= 50);
    }
}
