//! Ends attempts: collects what is to be settled into batches and sees each through.
//!
//! What arrives while batches are under way forms the next one, so that an idle host settles at once and a busy one
//! in large batches, without a timer. A settle that got no answer is repeated until it gets one; the broker knows a
//! repetition when it sees one.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::broker::{Error, SettleOutcome, SettleRequest, WorkQueue};
use crate::event::{EventType, FailureClass, Settlement};
use crate::shutdown::TaskGroup;

use super::queue::DeliveryGuard;
use super::reach::HostReach;

/// The most settles in one call.
const MAX_BATCH: usize = 200;
/// Calls under way at the same time: one is worked on by the store while the next one travels.
const MAX_CALLS: usize = 2;

/// Takes settles. There are never more than the deliveries that a host holds.
#[derive(Clone)]
pub(super) struct SettleQueue {
    queue: mpsc::UnboundedSender<SettleItem>,
}

/// A settle to be seen through.
pub(super) struct SettleItem {
    settle: SettleRequest,
    custody: DeliveryGuard,
    /// Whoever has to know what became of it.
    answer: Option<oneshot::Sender<SettleConclusion>>,
    backoff: SettleBackoff,
}

/// What became of a settle, and the delivery if it is still held.
pub(super) enum SettleConclusion {
    /// It is over.
    Over,
    /// Its state has changed meanwhile: to be handled again.
    Conflict(DeliveryGuard),
}

impl SettleItem {
    /// A settle that nobody waits for.
    pub(super) fn new(settle: SettleRequest, custody: DeliveryGuard) -> Self {
        Self { settle, custody, answer: None, backoff: SettleBackoff::default() }
    }
}

impl SettleQueue {
    /// Starts the task that forms batches. It ends when every `Settler` is gone. What is not settled when `too_late` is
    /// cancelled is given up. `reach` is told of events that failed for want of a plugin.
    pub(super) fn start(
        work_queue: Arc<dyn WorkQueue>,
        reach: Arc<HostReach>,
        too_late: CancellationToken,
        tasks: &TaskGroup,
    ) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let calls = Arc::new(Semaphore::new(MAX_CALLS));
        let batches = SettleBatches { work_queue, reach, calls, too_late, tasks: tasks.clone() };
        tasks.spawn(batches.form(waiting));
        Self { queue }
    }

    /// Settles for as long as it takes, or until the lease is lost or the worker gives up.
    pub(super) fn submit(&self, item: SettleItem) {
        // Nobody is left to take it only when the worker has ended.
        let _ = self.queue.send(item);
    }

    /// The same, and waits for what comes of it. May be dropped; the settle goes on.
    pub(super) async fn settle(&self, settle: SettleRequest, custody: DeliveryGuard) -> SettleConclusion {
        let (answer, answered) = oneshot::channel();
        self.submit(SettleItem { answer: Some(answer), ..SettleItem::new(settle, custody) });
        answered.await.unwrap_or(SettleConclusion::Over)
    }
}

#[derive(Clone)]
struct SettleBatches {
    work_queue: Arc<dyn WorkQueue>,
    reach: Arc<HostReach>,
    calls: Arc<Semaphore>,
    too_late: CancellationToken,
    tasks: TaskGroup,
}

impl SettleBatches {
    async fn form(self, mut waiting: mpsc::UnboundedReceiver<SettleItem>) {
        loop {
            let Ok(call) = self.calls.clone().acquire_owned().await else { return };
            let mut batch = Vec::new();
            if waiting.recv_many(&mut batch, MAX_BATCH).await == 0 {
                return;
            }
            let batches = self.clone();
            self.tasks.spawn(async move {
                batches.settle(batch).await;
                drop(call);
            });
        }
    }

    async fn settle(&self, mut batch: Vec<SettleItem>) {
        batch.retain(|item| !item.custody.hold.lost().is_cancelled());
        match self.try_settle(&batch).await {
            Ok(settled) => self.conclude(batch, settled),
            Err(error) if error.is_transient() || batch.len() == 1 => self.again(batch, &error),
            // One of them met something that a person has to mend; the others must not wait for that.
            Err(_) => {
                for item in batch {
                    let alone = vec![item];
                    match self.try_settle(&alone).await {
                        Ok(settled) => self.conclude(alone, settled),
                        Err(error) => self.again(alone, &error),
                    }
                }
            }
        }
    }

    fn conclude(&self, batch: Vec<SettleItem>, settled: Vec<SettleOutcome>) {
        let lacked_a_plugin = |item: &SettleItem| match &item.settle.settlement {
            Settlement::Failed { class: FailureClass::NoHandler, .. } => {
                Some(item.settle.record.event.event_type.clone())
            }
            _ => None,
        };
        let lacking: Vec<EventType> = batch.iter().filter_map(lacked_a_plugin).collect();
        batch.into_iter().zip(settled).for_each(|(item, settled)| item.conclude(settled));
        self.reach.note_missed(&lacking);
    }

    async fn try_settle(&self, batch: &[SettleItem]) -> Result<Vec<SettleOutcome>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let settles: Vec<SettleRequest> = batch.iter().map(|item| item.settle.clone()).collect();
        let settled = tokio::select! {
            settled = self.work_queue.settle(settles) => settled?,
            () = self.too_late.cancelled() => return Err(Error::unknown("the host is stopping")),
        };
        if settled.len() != batch.len() {
            return Err(Error::unknown("the broker gave another number of answers"));
        }
        Ok(settled)
    }

    /// Tries once more after a pause, during which the calls are free for others.
    fn again(&self, mut items: Vec<SettleItem>, error: &Error) {
        let mut pause = Duration::ZERO;
        tracing::warn!(attempts = items.len(), "attempts not settled yet, which is tried again: {error}");
        for item in &mut items {
            tracing::debug!(event.id = %item.settle.receipt.event_id, "attempt not settled yet: {error}");
            pause = pause.max(item.backoff.next());
        }
        let batches = self.clone();
        let retry: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = batches.too_late.cancelled() => return,
            }
            if let Ok(_call) = batches.calls.acquire().await {
                batches.settle(items).await;
            }
        });
        self.tasks.spawn(retry);
    }
}

impl SettleItem {
    fn conclude(self, settled: SettleOutcome) {
        let conclusion = match settled {
            SettleOutcome::Conflict => SettleConclusion::Conflict(self.custody),
            SettleOutcome::Done => SettleConclusion::Over,
            SettleOutcome::Lost => {
                let id = self.settle.receipt.event_id;
                tracing::warn!(event.id = %id, "outcome dropped: the delivery passed to another consumer");
                SettleConclusion::Over
            }
        };
        if let Some(answer) = self.answer {
            // Whoever asked may have been cancelled meanwhile.
            let _ = answer.send(conclusion);
        }
    }
}

/// Pauses that double from 50 ms to 2 s, each spread by up to a half.
#[derive(Clone, Debug, Default)]
pub(super) struct SettleBackoff {
    failures: u32,
}

impl SettleBackoff {
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
        let mut backoff = SettleBackoff::default();
        let pauses: Vec<u128> = (0..20).map(|_| backoff.next().as_millis()).collect();
        assert!((25..=50).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| (1_000..=2_000).contains(pause)), "{pauses:?}");
        backoff.reset();
        assert!(backoff.next().as_millis() <= 50);
    }
}
