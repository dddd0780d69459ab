//! Settles deliveries in batches.
//!
//! Settles that arrive during a call form the next batch. So an idle host settles at once, a busy one settles in large
//! batches, and no timer is needed. A settle without an answer is repeated; the broker recognizes repetitions.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::broker::{Error, SettleOutcome, SettleRequest, WorkQueue};
use crate::event::{AttemptDetail, EventType, FailureClass, Settlement};
use crate::shutdown::TaskGroup;

use super::backlog::BacklogLimit;
use super::backoff::RetryBackoff;
use super::coverage::HostCoverage;
use super::handler::AttemptReservations;
use super::history_limit::HistoryLimit;
use super::ready_queue::DeliveryGuard;

/// The most settles in one call.
const MAX_BATCH: usize = 200;
/// How many calls may run at once: the store works on one while the next one travels.
const MAX_CALLS: usize = 2;

/// Accepts settles. The channel is unbounded, but a host never has more settles than deliveries.
#[derive(Clone)]
pub(super) struct SettleQueue {
    queue: mpsc::UnboundedSender<SettleItem>,
}

/// A settle, with the guard of its delivery.
pub(super) struct SettleItem {
    settle: SettleRequest,
    guard: DeliveryGuard,
    _reservations: AttemptReservations,
    /// Receives the conclusion, where the attempt waits for it.
    answer: Option<oneshot::Sender<SettleConclusion>>,
    backoff: RetryBackoff,
}

/// How a settle ended.
pub(super) enum SettleConclusion {
    /// The lease of the delivery is over.
    Over,
    /// The plugin state changed meanwhile. The lease goes on, and the delivery must be handled again.
    Conflict(DeliveryGuard),
}

impl SettleItem {
    /// A settle whose conclusion no attempt waits for.
    pub(super) fn new(settle: SettleRequest, guard: DeliveryGuard, reservations: AttemptReservations) -> Self {
        Self { settle, guard, _reservations: reservations, answer: None, backoff: RetryBackoff::default() }
    }
}

impl SettleQueue {
    /// Starts the task that forms batches. It ends when every clone of this queue is dropped. Open settles are abandoned
    /// when `too_late` is cancelled. `backlog` and `history` learn of events that ended, and `coverage` of those that failed
    /// for want of a plugin.
    pub(super) fn start(
        work_queue: Arc<dyn WorkQueue>,
        coverage: Arc<HostCoverage>,
        backlog: Arc<BacklogLimit>,
        history: Arc<HistoryLimit>,
        too_late: CancellationToken,
        tasks: &TaskGroup,
    ) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let calls = Arc::new(Semaphore::new(MAX_CALLS));
        let batches = SettleBatches { work_queue, coverage, backlog, history, calls, too_late, tasks: tasks.clone() };
        tasks.spawn(batches.form(waiting));
        Self { queue }
    }

    /// Submits a settle. It is repeated until it succeeds, the lease is lost or the worker gives up.
    pub(super) fn submit(&self, item: SettleItem) {
        // Sending fails only after the worker has ended.
        let _ = self.queue.send(item);
    }

    /// Submits a settle and waits for its conclusion. If the future is dropped, the settle continues.
    pub(super) async fn settle(&self, item: SettleItem) -> SettleConclusion {
        let (answer, answered) = oneshot::channel();
        self.submit(SettleItem { answer: Some(answer), ..item });
        answered.await.unwrap_or(SettleConclusion::Over)
    }
}

#[derive(Clone)]
struct SettleBatches {
    work_queue: Arc<dyn WorkQueue>,
    coverage: Arc<HostCoverage>,
    backlog: Arc<BacklogLimit>,
    history: Arc<HistoryLimit>,
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
        batch.retain(|item| !item.guard.lease.lost().is_cancelled());
        match self.try_settle(&batch).await {
            Ok(settled) => self.conclude(batch, settled),
            Err(error) if error.is_transient() || batch.len() == 1 => self.retry(batch, &error),
            // One of them needs a person to act. The others must not wait for that.
            Err(_) => {
                for item in batch {
                    let alone = vec![item];
                    match self.try_settle(&alone).await {
                        Ok(settled) => self.conclude(alone, settled),
                        Err(error) => self.retry(alone, &error),
                    }
                }
            }
        }
    }

    fn conclude(&self, batch: Vec<SettleItem>, settled: Vec<SettleOutcome>) {
        let unhandled_type = |item: &SettleItem| match &item.settle.settlement {
            Settlement::Failed { class: FailureClass::NoHandler, .. } => {
                Some(item.settle.record.event.event_type.clone())
            }
            _ => None,
        };
        let unhandled: Vec<EventType> = batch.iter().filter_map(unhandled_type).collect();
        let done = batch.iter().zip(&settled).filter(|(_, settled)| **settled == SettleOutcome::Done);
        let done = done.map(|(item, _)| &item.settle);
        self.backlog.note_settled(done.clone());
        self.history.note_settled(done);
        batch.into_iter().zip(settled).for_each(|(item, settled)| item.conclude(settled));
        self.coverage.note_unhandled(&unhandled);
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
            return Err(Error::unknown("the broker returned a different number of answers"));
        }
        Ok(settled)
    }

    /// Tries again after a pause. Other settles can use the call meanwhile.
    fn retry(&self, mut items: Vec<SettleItem>, error: &Error) {
        let mut pause = Duration::ZERO;
        // A stop does not wait for room. The leases end with the process, and the events are handled again.
        let stop = self.tasks.stop_token().clone();
        let is_full = matches!(error, Error::NoRoom(_));
        let abandon = |attempts: usize| {
            tracing::warn!(attempts, "the store is full: these attempts are made again after the next start");
        };
        if is_full && stop.is_cancelled() {
            return abandon(items.len());
        }
        tracing::warn!(attempts = items.len(), "could not settle attempts, will try again: {error}");
        for item in &mut items {
            tracing::debug!(event.id = %item.settle.receipt.event_id, "attempt not settled yet: {error}");
            if matches!(error, Error::NoRoom(_)) {
                // The less it takes, the sooner it fits.
                item.settle.record = item.settle.record.clone().with_detail(AttemptDetail::Compact);
            }
            pause = pause.max(item.backoff.next_pause());
        }
        let batches = self.clone();
        let retry: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = batches.too_late.cancelled() => return,
                () = stop.cancelled(), if is_full => return abandon(items.len()),
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
            SettleOutcome::Conflict => SettleConclusion::Conflict(self.guard),
            SettleOutcome::Done => SettleConclusion::Over,
            SettleOutcome::Lost => {
                let id = self.settle.receipt.event_id;
                tracing::warn!(event.id = %id, "outcome dropped: the delivery belongs to another consumer now");
                SettleConclusion::Over
            }
        };
        if let Some(answer) = self.answer {
            // The attempt may have been cancelled meanwhile.
            let _ = answer.send(conclusion);
        }
    }
}
