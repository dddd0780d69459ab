//! The tasks of the program, their end, and the signals that stop the program.
//!
//! No task is detached: the program waits for all of them before it ends. A critical task that ends by itself stops the
//! program.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
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
    /// A group without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the program stops. Every task must then end soon.
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts a task that the program needs. If it fails, panics or ends before a stop, all tasks are stopped.
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

    /// Starts a task that the program does not need, such as a connection. If it panics, the panic is logged and nothing else
    /// ends.
    #[expect(clippy::disallowed_methods, reason = "the group owns the task")]
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(task));
    }

    /// A token that counts as a task until it is dropped.
    pub fn token(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Waits until every task has ended. Cancel [`Self::stop_token`] first, or the tasks go on.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Takes the failure of the critical task that stopped the group, if one did.
    pub fn failure(&self) -> Option<anyhow::Error> {
        self.first_failure.lock().take()
    }
}

/// Signals within this time after the first one count as the same request. `timeout`, terminals and some supervisors signal a
/// process and then its group.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// The time from the first instruction of a server until it listens for signals. A signal then ends the process at once, with
/// success: nothing has begun. Drop this when [`StopSignals`] listen.
pub struct EarlyStop {
    is_early: Arc<AtomicBool>,
}

impl EarlyStop {
    /// Begins this time. Works without a runtime and before any thread is started.
    ///
    /// # Errors
    /// Those of the system.
    pub fn begin() -> io::Result<Self> {
        let is_early = Arc::new(AtomicBool::new(true));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            if signal != SIGHUP || !is_hangup_ignored() {
                register_conditional_shutdown(signal, 0, is_early.clone())?;
            }
        }
        Ok(Self { is_early })
    }
}

impl Drop for EarlyStop {
    fn drop(&mut self) {
        self.is_early.store(false, Ordering::SeqCst);
    }
}

/// The signals that stop the program: SIGTERM, SIGINT, and SIGHUP, which arrives when its terminal is closed.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if the signal was ignored when the program started, as with `nohup`.
    hangup: Option<Signal>,
    first_at: Option<Instant>,
}

impl StopSignals {
    /// Catches signals from now on. Call it within a runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
            first_at: None,
        })
    }

    /// Waits for a signal and returns its name. Signals that belong to the first one are skipped.
    ///
    /// # Cancel safety
    /// Dropping the future loses no signal.
    pub async fn next(&mut self) -> &'static str {
        loop {
            let name = self.next_signal().await;
            let now = Instant::now();
            match self.first_at {
                Some(first_at) if is_same_request(first_at, now) => {
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

    async fn next_signal(&mut self) -> &'static str {
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

/// Whether a signal now belongs to the first one.
fn is_same_request(first_at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(first_at) < SAME_REQUEST
}

/// Whether this process was started with SIGHUP ignored.
fn is_hangup_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_ignored(&status, SIGHUP.unsigned_abs()))
}

/// Whether a process with this `/proc/PID/status` ignores a signal.
fn is_ignored(status: &str, signal: u32) -> bool {
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
        let after_ms = |ms| is_same_request(first, first + Duration::from_millis(ms));
        assert_eq!((after_ms(0), after_ms(999), after_ms(1_000)), (true, true, false));
    }

    #[test]
    fn an_ignored_signal_is_found_in_the_mask_of_the_process() {
        let status = "Name:\teventstream\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n";
        assert_eq!((is_ignored(status, 1), is_ignored(status, 13), is_ignored(status, 15)), (true, true, false));
        assert!(!is_ignored("", 1));
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
