//! The time of one attempt: its CPU time, and the time that it waits for something other than a CPU.
//!
//! Waiting for a CPU does not count, because other plugins decide how long that takes. The attempt is polled with a waker of
//! the stopwatch, which notes when the attempt could continue, even if no thread polls it then.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::Sleep;

use crate::plugin::sandbox::limits::LimitBreach;

/// The CPU time of one attempt.
#[derive(Debug, Default)]
pub struct CpuMeter {
    spent_ns: AtomicU64,
    began_ns: AtomicU64,
    plugin: OnceLock<Arc<str>>,
}

impl CpuMeter {
    /// The CPU time so far. Call it on the thread that runs the attempt.
    pub(in crate::plugin) fn spent_ns(&self) -> u64 {
        let running_ns = thread_cpu_ns().saturating_sub(self.began_ns.load(Ordering::Relaxed));
        self.spent_ns.load(Ordering::Relaxed).saturating_add(running_ns)
    }

    /// Sets the plugin of the attempt. Later calls have no effect.
    pub(in crate::plugin) fn set_plugin(&self, plugin: &Arc<str>) {
        self.plugin.get_or_init(|| plugin.clone());
    }

    /// The plugin of the attempt; empty for work of the host.
    pub(in crate::plugin) fn plugin(&self) -> Arc<str> {
        self.plugin.get().cloned().unwrap_or_default()
    }

    /// Notes that the attempt begins to run on this thread, which has used `began_ns` of CPU time.
    pub(in crate::plugin) fn begin(&self, began_ns: u64) {
        self.began_ns.store(began_ns, Ordering::Relaxed);
    }

    /// Adds CPU time, as if the attempt had used it.
    #[cfg(test)]
    pub(in crate::plugin) fn add(&self, ns: u64) {
        self.spent_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Notes that the attempt stops running on this thread. Returns its CPU time so far.
    pub(in crate::plugin) fn end(&self) -> u64 {
        let spent_ns = self.spent_ns();
        self.spent_ns.store(spent_ns, Ordering::Relaxed);
        spent_ns
    }
}

/// The CPU time of this thread.
pub(in crate::plugin) fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The attempt was not woken since its last poll.
const ASLEEP: u64 = u64::MAX;

/// Measures one attempt.
#[derive(Debug)]
pub(in crate::plugin) struct AttemptStopwatch {
    limit_ms: u64,
    meter: Arc<CpuMeter>,
    /// The CPU time that the meter had counted before the attempt.
    before_ns: u64,
    began: Instant,
    /// How long the attempt has waited for something other than a CPU.
    waited_ns: AtomicU64,
    /// When the attempt was woken, counted from `began`; or [`ASLEEP`].
    woken_ns: AtomicU64,
    task: Mutex<Option<Waker>>,
}

impl AttemptStopwatch {
    /// Starts the stopwatch of an attempt that may take `limit_ms`. Call it on the thread that runs the attempt.
    pub(in crate::plugin) fn start(limit_ms: u64, meter: Arc<CpuMeter>) -> Arc<Self> {
        Arc::new(Self {
            limit_ms,
            // After a state conflict the delivery is handled again with the same meter. The time of the conflicting run
            // does not count.
            before_ns: meter.spent_ns(),
            meter,
            began: Instant::now(),
            waited_ns: AtomicU64::new(0),
            woken_ns: AtomicU64::new(ASLEEP),
            task: Mutex::default(),
        })
    }

    /// The CPU time of the attempt. Call it on the thread that runs the attempt.
    pub(in crate::plugin) fn cpu_ns(&self) -> u64 {
        self.meter.spent_ns().saturating_sub(self.before_ns)
    }

    /// The time that is left. Call it on the thread that runs the attempt.
    pub(in crate::plugin) fn remaining(&self) -> Duration {
        let spent_ns = self.waited_ns.load(Ordering::Relaxed).saturating_add(self.cpu_ns());
        Duration::from_millis(self.limit_ms).saturating_sub(Duration::from_nanos(spent_ns))
    }

    /// Runs the attempt within its time.
    ///
    /// # Errors
    /// The error of the attempt, or [`LimitBreach::WallTime`]. The attempt is then dropped at the point that it reached.
    pub(in crate::plugin) async fn limit<T>(
        self: &Arc<Self>,
        attempt: impl Future<Output = wasmtime::Result<T>>,
    ) -> wasmtime::Result<T> {
        let waker = Waker::from(self.clone());
        let (mut attempt, mut timer) = (pin!(attempt), None);
        let mut paused_ns = None;
        std::future::poll_fn(|context| {
            self.set_task(context.waker());
            let woken_ns = self.woken_ns.swap(ASLEEP, Ordering::AcqRel);
            if let Some(paused_ns) = paused_ns.take() {
                // A poll without a wake-up: another future of the same task was woken.
                let until_ns = if woken_ns == ASLEEP { self.now_ns() } else { woken_ns };
                self.waited_ns.fetch_add(until_ns.saturating_sub(paused_ns), Ordering::Relaxed);
                if self.remaining().is_zero() {
                    return Poll::Ready(Err(self.breach()));
                }
            }
            let mut own = Context::from_waker(&waker);
            if let Poll::Ready(answer) = attempt.as_mut().poll(&mut own) {
                return Poll::Ready(answer);
            }
            paused_ns = Some(self.now_ns());
            if self.woken_ns.load(Ordering::Acquire) == ASLEEP && arm(&mut timer, self.remaining(), &mut own) {
                return Poll::Ready(Err(self.breach()));
            }
            Poll::Pending
        })
        .await
    }

    fn breach(&self) -> wasmtime::Error {
        LimitBreach::WallTime { limit_ms: self.limit_ms }.into()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(ASLEEP - 1)
    }

    fn set_task(&self, waker: &Waker) {
        let mut task = self.task.lock();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }
}

impl Wake for AttemptStopwatch {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Only the first wake-up counts. From then on the attempt waits for a CPU.
        let _ = self.woken_ns.compare_exchange(ASLEEP, self.now_ns(), Ordering::AcqRel, Ordering::Acquire);
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// Sets the timer. Returns whether the time is over already.
fn arm(timer: &mut Option<Pin<Box<Sleep>>>, remaining: Duration, context: &mut Context<'_>) -> bool {
    match timer {
        Some(timer) => timer.as_mut().reset(tokio::time::Instant::now() + remaining),
        None => *timer = Some(Box::pin(tokio::time::sleep(remaining))),
    }
    timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready())
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    /// Pends `times` times. Each time it is woken after `wait` and polled `late` after that.
    async fn pend(watch: &Arc<AttemptStopwatch>, times: u32, wait: Duration, late: Duration) -> wasmtime::Result<()> {
        let mut left = times;
        let attempt = std::future::poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(Ok(()));
            }
            left -= 1;
            let waker = context.waker().clone();
            std::thread::spawn(move || {
                std::thread::sleep(wait);
                waker.wake();
            });
            Poll::Pending
        });
        let mut limited = pin!(watch.limit(attempt));
        let mut blocked = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut blocked, true) {
                // As if the thread were busy with other attempts.
                std::thread::sleep(late);
            }
            limited.as_mut().poll(context)
        })
        .await
    }

    fn is_over(answer: wasmtime::Result<()>) -> bool {
        matches!(answer.map_err(|error| error.downcast::<LimitBreach>()), Err(Ok(LimitBreach::WallTime { .. })))
    }

    #[tokio::test]
    async fn waiting_counts() {
        let watch = AttemptStopwatch::start(HOUR_MS, Arc::default());
        assert!(pend(&watch, 2, Duration::from_millis(30), Duration::ZERO).await.is_ok());
        let left = Duration::from_millis(HOUR_MS).saturating_sub(watch.remaining());
        assert!(left >= Duration::from_millis(60), "{left:?}");
        let watch = AttemptStopwatch::start(20, Arc::default());
        assert!(is_over(watch.limit(std::future::pending()).await));
    }

    #[tokio::test]
    async fn waiting_for_a_cpu_does_not_count() {
        // Each time the attempt could continue at once, but the thread polled it a second later.
        let watch = AttemptStopwatch::start(900, Arc::default());
        assert!(pend(&watch, 3, Duration::ZERO, Duration::from_secs(1)).await.is_ok());
    }

    #[tokio::test]
    async fn cpu_time_counts() {
        let meter = Arc::new(CpuMeter::default());
        let watch = AttemptStopwatch::start(1_000, meter.clone());
        meter.add(999_000_000);
        assert!(pend(&watch, 0, Duration::ZERO, Duration::ZERO).await.is_ok());
        meter.add(1_000_000);
        assert!(is_over(pend(&watch, 1, Duration::ZERO, Duration::ZERO).await));
        assert_eq!(watch.remaining(), Duration::ZERO);
    }
}
