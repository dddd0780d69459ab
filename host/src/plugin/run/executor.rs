//! Where guests run: on runtimes of their own, in two tiers.
//!
//! An attempt starts on the fast tier, where quick ones are worked off in a row without a task or a hand-over for each. A
//! guest yields its thread at every tick of the epoch, and one that has used more than a slice of CPU time is moved,
//! mid-call, to the slow tier, whose threads have a lower priority. So a guest that burns CPU delays one that does not by
//! a slice at most, however many of them burn, and the threads of HTTP and of the broker are preferred to it by the kernel.
//! On the slow tier plugins take turns of a tick each, however many attempts each of them has there.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::cpu_meter::{CpuMeter, thread_cpu_ns};
use super::guest_turns::GuestTurns;

/// The CPU time after which an attempt leaves the fast tier.
const FAST_SLICE_NS: u64 = 2_000_000;
/// After how many turns a thread looks for attempts that others handed to it. Each turn of a busy guest takes a tick, so
/// with the runtime's own figure (31 to 61 turns, made for turns of microseconds) a new attempt would wait for many.
const TURNS_BETWEEN_NEW: u32 = 1;
/// After how many turns a thread looks at the timers that end attempts whose wall time is over.
const TURNS_BETWEEN_TIMERS: u32 = 4;
/// How long jobs are worked off in a row before others on the tier have their turn.
const TURN: Duration = Duration::from_micros(200);
/// How much nicer than the rest of the process the threads of the slow tier are.
const SLOW_NICENESS: i32 = 10;
/// How many names are looked up side by side, of which each plugin has a small share; a lookup holds a thread until the
/// resolver of the system gives up.
const MAX_LOOKUPS: usize = 256;
/// How long the end of the executor waits for what runs. Guests yield within a tick; a compilation does not.
const END_WAIT: Duration = Duration::from_secs(1);

/// The runtimes of the guests. Ends them when it is dropped, attempts under way included.
#[derive(Debug)]
pub(in crate::plugin) struct GuestExecutor {
    fast: Option<Runtime>,
    slow: Option<Runtime>,
    turns: Arc<GuestTurns>,
    io: Option<Runtime>,
}

/// An attempt and what follows from it on the spot.
pub struct GuestJob {
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
    meter: Arc<CpuMeter>,
}

impl GuestJob {
    /// Work that is given the meter of its CPU time, to hand it to the plugin.
    pub fn new<F>(work: impl FnOnce(Arc<CpuMeter>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let meter = Arc::new(CpuMeter::default());
        Self { work: Box::pin(work(meter.clone())), meter }
    }

    /// Goes on, on a thread that has used `began_ns` of CPU time before.
    fn poll(&mut self, context: &mut Context<'_>, slice_ns: u64, began_ns: u64) -> Poll<TurnResult> {
        self.meter.begin(began_ns);
        match self.work.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(TurnResult::Ended),
            Poll::Pending if self.meter.end() > slice_ns => Poll::Ready(TurnResult::SliceUsedUp),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Where jobs go that burn CPU.
#[derive(Clone)]
struct SlowTier {
    runtime: Handle,
    turns: Arc<GuestTurns>,
}

impl SlowTier {
    fn spawn(&self, job: GuestJob) {
        self.runtime.spawn(on_slow_tier(job, self.turns.clone()));
    }
}

/// What a turn of a job came to.
enum TurnResult {
    Ended,
    SliceUsedUp,
}

impl GuestExecutor {
    /// Two runtimes: the fast tier has `threads` threads, the slow one a thread less, so that with a thread for each core
    /// there is a core on which HTTP and the broker wake up at once, however many guests burn CPU.
    pub(in crate::plugin) fn start(threads: usize) -> std::io::Result<Self> {
        let runtime = |name: &str, threads: usize, niceness: i32| {
            Builder::new_multi_thread()
                .worker_threads(threads.max(1))
                .thread_name(name)
                .global_queue_interval(TURNS_BETWEEN_NEW)
                .event_interval(TURNS_BETWEEN_TIMERS)
                .on_thread_start(move || be_nice(niceness))
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

    /// Works off what `next` gives, one job after the other, until it gives none. A job that has to wait, or that burns
    /// CPU, goes on by itself and holds up none that come after it.
    pub(in crate::plugin) fn work_off(&self, next: impl FnMut() -> Option<GuestJob> + Send + 'static) {
        let (Some(fast), Some(slow)) = (&self.fast, &self.slow) else { return };
        fast.spawn(work_off(next, self.slow_tier(slow)));
    }

    /// Does one job.
    pub(in crate::plugin) fn work(&self, job: GuestJob) {
        let (Some(fast), Some(slow)) = (&self.fast, &self.slow) else { return };
        fast.spawn(on_fast_tier(job, self.slow_tier(slow)));
    }

    fn slow_tier(&self, runtime: &Runtime) -> SlowTier {
        SlowTier { runtime: runtime.handle().clone(), turns: self.turns.clone() }
    }

    /// How many threads begin jobs.
    pub(in crate::plugin) fn threads(&self) -> usize {
        self.fast.as_ref().map_or(0, |fast| fast.metrics().num_workers())
    }

    /// Runs an attempt to its end. `None` if it panicked or the executor ends. Dropping the future cancels the attempt.
    pub(in crate::plugin) async fn run<T, F>(&self, attempt: impl FnOnce(Arc<CpuMeter>) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (mut reply, answer) = oneshot::channel();
        self.work(GuestJob::new(|meter| {
            let attempt = attempt(meter);
            async move {
                tokio::select! {
                    biased;
                    () = reply.closed() => {}
                    done = attempt => {
                        // Whoever waited may have gone a moment ago.
                        let _ = reply.send(done);
                    }
                }
            }
        }));
        answer.await.ok()
    }

    /// Where connections to the outside live; the runtimes of the guests wait for nothing but time. `None` at the end.
    pub(in crate::plugin) fn io(&self) -> Option<&Handle> {
        self.io.as_ref().map(Runtime::handle)
    }

    /// Runs what blocks on a thread of low priority; threads that it starts inherit the priority. `None` if it panicked
    /// or the executor ends. Dropping the future does not stop it.
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
        // Ending a runtime blocks, which the thread of another runtime must not do; a plain thread may.
        let end = move || {
            // The slow tier first: what it runs may wait for timers of the fast one, on which it began.
            for runtime in runtimes.into_iter().flatten() {
                runtime.shutdown_timeout(END_WAIT);
            }
        };
        if let Ok(thread) = std::thread::Builder::new().name("plugin-end".into()).spawn(end) {
            let _ = thread.join();
        }
    }
}

/// Works off what `next` gives, for a while at a time, so that whoever else has work on this tier gets its turn.
async fn work_off(mut next: impl FnMut() -> Option<GuestJob> + Send, slow: SlowTier) {
    loop {
        // The kernel is asked for the CPU time once a turn; since then it was no more than what has passed, so that a job is
        // charged with less than it used by no more than a turn.
        let (turn_began, cpu_ns) = (Instant::now(), thread_cpu_ns());
        let mut passed = Duration::ZERO;
        while passed < TURN {
            let Some(mut job) = next() else { return };
            let began_ns = cpu_ns + u64::try_from(passed.as_nanos()).unwrap_or(0);
            let turn = poll_fn(|context| Poll::Ready(job.poll(context, FAST_SLICE_NS, began_ns))).await;
            passed = turn_began.elapsed();
            match turn {
                Poll::Ready(TurnResult::Ended) => {}
                Poll::Ready(TurnResult::SliceUsedUp) => slow.spawn(job),
                Poll::Pending => drop(Handle::current().spawn(on_fast_tier(job, slow.clone()))),
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn on_fast_tier(mut job: GuestJob, slow: SlowTier) {
    if let TurnResult::SliceUsedUp = poll_fn(|context| job.poll(context, FAST_SLICE_NS, thread_cpu_ns())).await {
        slow.spawn(job);
    }
}

/// Goes on when it is its plugin's turn, for a tick at most, and waits for nothing in its turn.
async fn on_slow_tier(mut job: GuestJob, turns: Arc<GuestTurns>) {
    let plugin = job.meter.plugin();
    let alarm = Arc::new(WakeFlag::default());
    let waker = Waker::from(alarm.clone());
    let mut turn = turns.take(&plugin).await;
    loop {
        alarm.has_rung.store(false, Ordering::Release);
        let polled = poll_fn(|context| {
            alarm.task.register(context.waker());
            Poll::Ready(job.poll(&mut Context::from_waker(&waker), u64::MAX, thread_cpu_ns()))
        });
        if polled.await.is_ready() {
            return;
        }
        turn = if alarm.has_rung.load(Ordering::Acquire) {
            turns.pass(turn, &plugin).await
        } else {
            drop(turn);
            alarm.rings().await;
            turns.take(&plugin).await
        };
    }
}

/// Whether a job was woken.
#[derive(Default)]
struct WakeFlag {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

impl WakeFlag {
    async fn rings(&self) {
        poll_fn(|context| {
            self.task.register(context.waker());
            if self.has_rung.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Linux keeps a priority for each thread; elsewhere it belongs to the process and is left alone.
fn be_nice(niceness: i32) {
    #[cfg(target_os = "linux")]
    if niceness > 0 {
        let beneath = rustix::process::getpriority_process(None).unwrap_or(0);
        // Refused at worst, and then the slow tier is a second one of the same priority.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), beneath + niceness);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}
