//! Collects single requests into batches.
//!
//! Requests that arrive while batches are in progress form the next one. There is no timer: on an idle system, a single
//! request is sent at once as a batch of its own. The queue is bounded, and a full queue refuses instead of waiting.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::shutdown::TaskGroup;

/// The most requests that wait for the next batch.
const QUEUE: usize = 1_024;
/// Batches in progress: the store works on one while the next travels.
const MAX_BATCHES: usize = 2;

/// A queue of requests with the task that batches them.
pub(super) struct Batcher<Q, A> {
    sender: mpsc::Sender<BatchRequest<Q, A>>,
}

struct BatchRequest<Q, A> {
    question: Q,
    answer: oneshot::Sender<A>,
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchError {
    /// The queue is full; nothing was done.
    QueueFull,
    /// The batcher has ended; the request may or may not have been done.
    Ended,
}

impl<Q: Send + 'static, A: Send + 'static> Batcher<Q, A> {
    /// Starts a batcher, which ends when `ends` is cancelled. A batch weighs at most `max_weight`, unless a single
    /// request weighs more. `work` returns one answer for each request, in order.
    pub(super) fn start<W, F>(
        tasks: &TaskGroup,
        ends: CancellationToken,
        max_weight: usize,
        weight: fn(&Q) -> usize,
        work: W,
    ) -> Self
    where
        W: Fn(Vec<Q>) -> F + Send + Sync + 'static,
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let (sender, mut receiver) = mpsc::channel::<BatchRequest<Q, A>>(QUEUE);
        let (batches, own_tasks) = (Arc::new(Semaphore::new(MAX_BATCHES)), tasks.clone());
        tasks.spawn(async move {
            let mut left_over = None;
            loop {
                let Ok(batch) = batches.clone().acquire_owned().await else { return };
                let first = match left_over.take() {
                    Some(request) => request,
                    None => tokio::select! {
                        request = receiver.recv() => match request {
                            Some(request) => request,
                            None => return,
                        },
                        () = ends.cancelled() => return,
                    },
                };
                let mut total = weight(&first.question);
                let (mut questions, mut answers) = (vec![first.question], vec![first.answer]);
                while let Ok(request) = receiver.try_recv() {
                    total += weight(&request.question);
                    if total > max_weight {
                        left_over = Some(request);
                        break;
                    }
                    questions.push(request.question);
                    answers.push(request.answer);
                }
                let work = work(questions);
                own_tasks.spawn(async move {
                    for (answer, to) in work.await.into_iter().zip(answers) {
                        // The caller may have stopped waiting.
                        let _ = to.send(answer);
                    }
                    drop(batch);
                });
            }
        });
        Self { sender }
    }

    /// Sends a request and waits for its answer. When this future is dropped, the request is done all the same.
    pub(super) async fn ask(&self, question: Q) -> Result<A, BatchError> {
        let (answer, answered) = oneshot::channel();
        self.sender.try_send(BatchRequest { question, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BatchError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => BatchError::Ended,
        })?;
        answered.await.map_err(|_| BatchError::Ended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use futures_util::future::join_all;
    use futures_util::stream::FuturesUnordered;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn requests_during_a_batch_form_the_next_one_up_to_its_weight() {
        let gate = Arc::new(Semaphore::new(0));
        let for_work = gate.clone();
        let batcher = Batcher::start(
            &TaskGroup::new(),
            CancellationToken::new(),
            3,
            |_| 1,
            move |batch: Vec<u32>| {
                let gate = for_work.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    let size = batch.len();
                    batch.into_iter().map(|n| (n, size)).collect()
                }
            },
        );
        let asking = join_all((0..6).map(|n| batcher.ask(n)));
        gate.add_permits(3);
        let sizes: Vec<_> = asking.await.into_iter().map(|answer| answer.unwrap()).collect();
        assert_eq!(
            sizes.iter().map(|(n, _)| *n).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5],
            "each caller gets its own answer"
        );
        assert!(sizes.iter().all(|(_, size)| *size <= 3));
        assert!(sizes.iter().any(|(_, size)| *size > 1), "{sizes:?}");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_an_ended_batcher_says_so() {
        let ends = CancellationToken::new();
        let batcher: Batcher<u32, u32> =
            Batcher::start(&TaskGroup::new(), ends.clone(), 1, |_| 1, |_| std::future::pending());
        let mut asking: FuturesUnordered<_> = (0..QUEUE as u32 + 2).map(|n| batcher.ask(n)).collect();
        assert_eq!(asking.next().await, Some(Err(BatchError::QueueFull)));
        let idle: Batcher<u32, u32> =
            Batcher::start(&TaskGroup::new(), ends.clone(), 1, |_| 1, |batch| async { batch });
        ends.cancel();
        idle.sender.closed().await;
        assert_eq!(idle.ask(0).await, Err(BatchError::Ended));
    }
}
