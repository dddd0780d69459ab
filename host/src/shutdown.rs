//! Tasks with a name and an owner, and the end of them.
//!
//! No task is detached: whoever ends the program waits for all of them, and a task that the program cannot do without
//! ends the program when it ends by itself.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The tasks of the program, or of a part of it.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    first_failure: Arc<Mutex<Option<anyhow::Error>>>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the program is to end. Every task ends soon after.
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts a task without which the program makes no sense: if it fails, panics or ends before it was asked to,
    /// everything is stopped.
    pub fn spawn_critical<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let tasks = self.clone();
        self.spawn(async move {
            let failure = match std::panic::AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) if tasks.stop.is_cancelled() => return,
                Ok(Ok(())) => anyhow::anyhow!("the task {name:?} ended by itself"),
                Ok(Err(error)) => error.context(format!("the task {name:?} failed")),
                Err(_) => anyhow::anyhow!("the task {name:?} panicked"),
            };
            tracing::error!(task = name, "{failure:#}");
            tasks.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
            tasks.stop.cancel();
        });
    }

    /// Starts a task of which there are many, such as a connection. A panic is caught by the runtime and shown by the
    /// panic hook; nothing else ends with it.
    #[expect(clippy::disallowed_methods, reason = "this is the owner that the rule asks for")]
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(task));
    }

    /// Something that is no task but has to end like one: it has when this is dropped.
    pub fn token(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Waits until every task has ended. Cancel the token first, or it takes for ever.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Why everything was stopped, if a task did it.
    pub fn failure(&self) -> Option<anyhow::Error> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_critical_task_that_ends_stops_everything_and_says_why() {
        for ending in ["returns", "fails", "panics"] {
            let tasks = Tasks::new();
            tasks.spawn_critical("pump", async move {
                match ending {
                    "returns" => Ok(()),
                    "fails" => anyhow::bail!("no water"),
                    _ => panic!("burst"),
                }
            });
            tasks.stop_token().cancelled().await;
            tasks.ended().await;
            assert!(tasks.failure().unwrap().to_string().contains("pump"), "{ending}");
        }
    }

    #[tokio::test]
    async fn a_critical_task_that_ends_when_asked_is_no_failure() {
        let tasks = Tasks::new();
        let stop = tasks.stop_token().clone();
        tasks.spawn_critical("pump", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.stop_token().cancel();
        tasks.ended().await;
        assert!(tasks.failure().is_none());
    }
}
