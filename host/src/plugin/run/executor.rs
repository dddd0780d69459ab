//! The runtimes on which guests run, in two tiers.
//!
//! An attempt starts on the fast tier. Quick attempts run there one after the other, without a task for each. A guest yields
//! its thread at every tick of the epoch. When it has used a slice of CPU time, it moves to the slow tier in the middle of a
//! call. The threads of the slow tier have a lower priority. So a busy guest delays a quick one by at most a slice, and the
//! kernel prefers the threads of HTTP and the broker. On the slow tier plugins take turns of one tick each.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::guest_turns::GuestTurns;
use super::stopwatch::{CpuMeter, thread_cpu_ns};

/// The CPU time after which an attempt leaves the fast tier.
const FAST_SLICE_NS: u64 = 2_000_000;
/// After how many polls a thread looks for new attempts. A poll of a busy guest takes a tick. Tokio's default of 31 to 61
/// polls would make a new attempt wait for many ticks.
const GLOBAL_QUEUE_INTERVAL: u32 = 1;
/// After how many polls a thread looks at the timers, which end attempts whose wall time is over.
const EVENT_INTERVAL: u32 = 4;
/// How long a runner handles jobs before it lets other tasks of the fast tier run.
const RUNNER_TURN: Duration = Duration::from_micros(200);
/// The niceness of the slow tier, relative to the rest of the process.
const SLOW_NICENESS: i32 = 10;
/// How many names may be looked up at once; each plugin has a small share. A lookup holds a thread until the system's
/// resolver gives up.
const MAX_LOOKUPS: usize = 256;
/// How long a dropped executor waits for its threads. Guests yield within a tick, but a compilation does not.
const END_WAIT: Duration = Duration::from_secs(1);

/// The runtimes of the guests. Dropping it ends them and the attempts on them.
#[derive(Debug)]
pub(in crate::plugin) struct GuestExecutor {
    fast: Option<Runtime>,
    slow: Option<Runtime>,
    turns: Arc<GuestTurns>,
    io: Option<Runtime>,
}

/// An attempt, together with what its caller does right after it.
pub struct GuestJob {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    meter: Arc<CpuMeter>,
}

impl GuestJob {
    /// A job from `start`, which receives the meter of the job's CPU time and passes it to the plugin.
    pub fn new<F>(start: impl FnOnce(Arc<CpuMeter>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let meter = Arc::new(CpuMeter::default());
        Self { future: Box::pin(start(meter.clone())), meter }
    }

    /// Runs on a thread that has used `began_ns` of CPU time before.
    fn poll(&mut self, context: &mut Context<'_>, slice_ns: u64, began_ns: u64) -> Poll<TurnResult> {
        self.meter.begin(began_ns);
        match self.future.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(TurnResult::Ended),
            Poll::Pending if self.meter.end() > slice_ns => Poll::Ready(TurnResult::SliceUsedUp),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Where busy jobs go.
#[derive(Clone)]
struct SlowTier {
    runtime: Handle,
    turns: Arc<GuestTurns>,
}

impl SlowTier {
    fn spawn(&self, job: GuestJob) {
        self.runtime.spawn(run_on_slow_tier(job, self.turns.clone()));
    }
}

/// How a turn of a job ended.
enum TurnResult {
    Ended,
    SliceUsedUp,
}

impl GuestExecutor {
    /// Starts the runtimes. The fast tier has `threads` threads and the slow tier one less. With one thread for each core,
    /// busy guests leave a core on which HTTP and the broker wake up at once. On a busy core each short step would wait for
    /// milliseconds. The class `SCHED_IDLE` is no remedy: a guest without CPU time may have the lock of the address space.
    ///
    /// # Errors
    /// A thread could not be started.
    pub(in crate::plugin) fn start(threads: usize) -> std::io::Result<Self> {
        let runtime = |name: &str, threads: usize, niceness: i32| {
            Builder::new_multi_thread()
                .worker_threads(threads.max(1))
                .thread_name(name)
                .global_queue_interval(GLOBAL_QUEUE_INTERVAL)
                .event_interval(EVENT_INTERVAL)
                .on_thread_start(move || raise_niceness(niceness))
                .enable_time()
                .build()
        };
        let slow_threads = threads.saturating_sub(1);
        let io = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(MAX_LOOKUPS)
            .thread_name("plugin-io")
            .enable_all()
            .build();
        Ok(Self {
            fast: Some(runtime("plugin-fast", threads, 0)?),
            slow: Some(runtime("plugin-slow", slow_threads, SLOW_NICENESS)?),
            turns: GuestTurns::new(slow_threads.max(1)),
            io: Some(io?),
        })
    }

    /// Runs the jobs that `next` returns, one after the other, until it returns `None`. A job that waits or uses up its
    /// slice continues in a task of its own and does not delay the next ones.
    pub(in crate::plugin) fn run_jobs(&self, next: impl FnMut() -> Option<GuestJob> + Send + 'static) {
        let (Some(fast), Some(slow)) = (&self.fast, &self.slow) else { return };
        fast.spawn(run_jobs(next, self.slow_tier(slow)));
    }

    /// Starts one job.
    pub(in crate::plugin) fn spawn(&self, job: GuestJob) {
        let (Some(fast), Some(slow)) = (&self.fast, &self.slow) else { return };
        fast.spawn(run_on_fast_tier(job, self.slow_tier(slow)));
    }

    fn slow_tier(&self, runtime: &Runtime) -> SlowTier {
        SlowTier { runtime: runtime.handle().clone(), turns: self.turns.clone() }
    }

    /// The number of threads of the fast tier.
    pub(in crate::plugin) fn threads(&self) -> usize {
        self.fast.as_ref().map_or(0, |fast| fast.metrics().num_workers())
    }

    /// Runs an attempt and returns its result. `None` if it panicked or the executor ended. Dropping the future cancels the
    /// attempt.
    pub(in crate::plugin) async fn run<T, F>(&self, attempt: impl FnOnce(Arc<CpuMeter>) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (mut reply, answer) = oneshot::channel();
        self.spawn(GuestJob::new(|meter| {
            let attempt = attempt(meter);
            async move {
                tokio::select! {
                    biased;
                    () = reply.closed() => {}
                    done = attempt => {
                        // The caller may have dropped the future a moment ago.
                        let _ = reply.send(done);
                    }
                }
            }
        }));
        answer.await.ok()
    }

    /// The runtime for outgoing connections. The guests' runtimes have timers but no sockets. `None` once the executor ends.
    pub(in crate::plugin) fn io(&self) -> Option<&Handle> {
        self.io.as_ref().map(Runtime::handle)
    }

    /// Runs blocking work on a thread of low priority, which threads started by it inherit. `None` if it panicked or the
    /// executor ended. Dropping the future does not stop the work.
    pub(in crate::plugin) async fn run_blocking<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.slow.as_ref()?.handle().spawn_blocking(work).await.ok()
    }
}

impl Drop for GuestExecutor {
    fn drop(&mut self) {
        let runtimes = [self.slow.take(), self.fast.take(), self.io.take()];
        // Shutting a runtime down blocks, which is forbidden on a thread of a runtime. So a plain thread does it.
        let end = move || {
            // The slow tier first: its jobs began on the fast tier and may wait for timers there.
            for runtime in runtimes.into_iter().flatten() {
                runtime.shutdown_timeout(END_WAIT);
            }
        };
        if let Ok(thread) = std::thread::Builder::new().name("plugin-end".into()).spawn(end) {
            let _ = thread.join();
        }
    }
}

/// Runs jobs, and yields after each [`RUNNER_TURN`] to other tasks of the tier.
async fn run_jobs(mut next: impl FnMut() -> Option<GuestJob> + Send, slow: SlowTier) {
    loop {
        // Asks the kernel for the CPU time only once a turn, and adds the time that has passed since. This is at least the
        // CPU time, so a job is charged at most one turn too little.
        let (turn_began, cpu_ns) = (Instant::now(), thread_cpu_ns());
        let mut passed = Duration::ZERO;
        while passed < RUNNER_TURN {
            let Some(mut job) = next() else { return };
            let began_ns = cpu_ns + u64::try_from(passed.as_nanos()).unwrap_or(0);
            let turn = poll_fn(|context| Poll::Ready(job.poll(context, FAST_SLICE_NS, began_ns))).await;
            passed = turn_began.elapsed();
            match turn {
                Poll::Ready(TurnResult::Ended) => {}
                Poll::Ready(TurnResult::SliceUsedUp) => slow.spawn(job),
                Poll::Pending => drop(Handle::current().spawn(run_on_fast_tier(job, slow.clone()))),
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn run_on_fast_tier(mut job: GuestJob, slow: SlowTier) {
    if let TurnResult::SliceUsedUp = poll_fn(|context| job.poll(context, FAST_SLICE_NS, thread_cpu_ns())).await {
        slow.spawn(job);
    }
}

/// Polls a job in turns of its plugin, each at most a tick long. The job gives its turn back while it waits.
async fn run_on_slow_tier(mut job: GuestJob, turns: Arc<GuestTurns>) {
    let plugin = job.meter.plugin();
    let wake_flag = Arc::new(WakeFlag::default());
    let waker = Waker::from(wake_flag.clone());
    let mut turn = turns.take(&plugin).await;
    loop {
        wake_flag.is_set.store(false, Ordering::Release);
        let polled = poll_fn(|context| {
            wake_flag.task.register(context.waker());
            Poll::Ready(job.poll(&mut Context::from_waker(&waker), u64::MAX, thread_cpu_ns()))
        });
        if polled.await.is_ready() {
            return;
        }
        turn = if wake_flag.is_set.load(Ordering::Acquire) {
            turns.pass(turn, &plugin).await
        } else {
            drop(turn);
            wake_flag.wait().await;
            turns.take(&plugin).await
        };
    }
}

/// Notes whether a job was woken.
#[derive(Default)]
struct WakeFlag {
    is_set: AtomicBool,
    task: AtomicWaker,
}

impl WakeFlag {
    async fn wait(&self) {
        poll_fn(|context| {
            self.task.register(context.waker());
            if self.is_set.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_set.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Lowers the priority of this thread. Only Linux has a priority for each thread; elsewhere this does nothing.
fn raise_niceness(niceness: i32) {
    #[cfg(target_os = "linux")]
    if niceness > 0 {
        let process_niceness = rustix::process::getpriority_process(None).unwrap_or(0);
        // If it is refused, the slow tier has the same priority as the fast one.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), process_niceness + niceness);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}
