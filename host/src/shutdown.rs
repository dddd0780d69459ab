//! Tasks with a name and an owner, the end of them, and the signals that ask for it.
//!
//! No task is detached: whoever ends the program waits for all of them, and a task that the program cannot do without
//! ends the program when it ends by itself.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The tasks of the program, or of a part of it.
#[derive(Clone, Default)]
pub struct TaskGroup {
    tracker: TaskTracker,
    stop: CancellationToken,
    first_failure: Arc<Mutex<Option<anyhow::Error>>>,
}

impl TaskGroup {
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
            tasks.first_failure.lock().get_or_insert(failure);
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
        self.first_failure.lock().take()
    }
}

/// Signals that come within this time after the first one belong to it: `timeout`, a terminal and several supervisors
/// signal a process and then its group.
const SAME_STOP: Duration = Duration::from_secs(1);

/// The signals that stop the program: SIGTERM, SIGINT, and SIGHUP, which a terminal sends that is closed.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` where whoever started the program had it ignored, as `nohup` does.
    hangup: Option<Signal>,
    first_at: Option<Instant>,
}

impl StopSignals {
    /// Hears signals from now on. To be called within a runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub fn listen() -> io::Result<Self> {
        let hangup = SignalKind::hangup();
        let is_ignored = std::fs::read_to_string("/proc/self/status")
            .is_ok_and(|status| ignores(&status, hangup.as_raw_value().unsigned_abs()));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if is_ignored { None } else { Some(signal(hangup)?) },
            first_at: None,
        })
    }

    /// The name of the next signal. After the first one, those are left out that belong to it. May be dropped.
    pub async fn next(&mut self) -> &'static str {
        loop {
            let name = self.any().await;
            let now = Instant::now();
            match self.first_at {
                Some(first_at) if belongs_to(first_at, now) => {
                    tracing::debug!("{name} received, which belongs to the signal before it");
                }
                Some(_) => return name,
                None => {
                    self.first_at = Some(now);
                    return name;
                }
            }
        }
    }

    async fn any(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }
}

/// Whether a signal now is the same request to stop as the first one.
fn belongs_to(first_at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(first_at) < SAME_STOP
}

/// Whether a process with this `/proc/PID/status` ignores a signal.
fn ignores(status: &str, signal: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    signal >= 1 && mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_within_a_second_are_one() {
        let first = Instant::now();
        let after_ms = |ms| belongs_to(first, first + Duration::from_millis(ms));
        assert_eq!((after_ms(0), after_ms(999), after_ms(1_000)), (true, true, false));
    }

    #[test]
    fn whether_a_signal_is_ignored_is_read_from_the_mask_of_the_process() {
        let status = "Name:\teventstream\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n";
        assert_eq!((ignores(status, 1), ignores(status, 13), ignores(status, 15)), (true, true, false));
        assert!(!ignores("", 1));
    }

    #[tokio::test]
    async fn a_critical_task_that_ends_stops_everything_and_says_why() {
        for ending in ["returns", "fails", "panics"] {
            let tasks = TaskGroup::new();
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
        let tasks = TaskGroup::new();
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
