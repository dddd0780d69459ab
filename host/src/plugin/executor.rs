//! Where guests run: on runtimes of their own, in two tiers.
//!
//! An attempt starts on the fast tier. A guest yields its thread at every tick of the epoch, and one that has used more
//! than a slice of CPU time is moved, mid-call, to the slow tier, whose threads have a lower priority. So a guest that
//! burns CPU delays one that does not by a slice at most, however many of them burn, and the threads of HTTP and of the
//! broker are preferred to it by the kernel.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// The CPU time after which an attempt leaves the fast tier.
const FAST_SLICE_NS: u64 = 2_000_000;
/// After how many turns a thread looks for attempts that others handed to it. Each turn of a busy guest takes a tick, so
/// with the runtime's own figure (31 to 61 turns, made for turns of microseconds) a new attempt would wait for many.
const TURNS_BETWEEN_NEW: u32 = 1;
/// After how many turns a thread looks at the timers that end attempts whose wall time is over.
const TURNS_BETWEEN_TIMERS: u32 = 4;
/// How much nicer than the rest of the process the threads of the slow tier are.
const SLOW_NICENESS: i32 = 10;
/// How many names are looked up side by side; a lookup holds a thread until the resolver of the system gives up.
const MAX_LOOKUPS: usize = 64;
/// How long the end of the executor waits for what runs. Guests yield within a tick; a compilation does not.
const END_WAIT: Duration = Duration::from_secs(1);

/// The runtimes of the guests. Ends them when it is dropped, attempts under way included.
#[derive(Debug)]
pub(super) struct Executor {
    fast: Option<Runtime>,
    slow: Option<Runtime>,
    io: Option<Runtime>,
}

/// The CPU time of one attempt, wherever it ran.
#[derive(Debug, Default)]
pub(super) struct Meter {
    spent_ns: AtomicU64,
    began_ns: AtomicU64,
}

impl Executor {
    /// Two runtimes: the fast tier has `threads` threads, the slow one a thread less, so that with a thread for each core
    /// there is a core on which HTTP and the broker wake up at once, however many guests burn CPU.
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
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
            io: Some(io?),
        })
    }

    /// Runs an attempt to its end and counts its CPU time in `meter`. `None` if it panicked or the executor ends.
    /// Dropping the future cancels the attempt.
    pub(super) async fn run<T, F>(&self, meter: Arc<Meter>, attempt: F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let (fast, slow) = (self.fast.as_ref()?.handle(), self.slow.as_ref()?.handle().clone());
        fast.spawn(on_fast_tier(Running { attempt: Box::pin(attempt), reply: Some(reply), meter }, slow));
        answer.await.ok()
    }

    /// Where connections to the outside live; the runtimes of the guests wait for nothing but time. `None` at the end.
    pub(super) fn io(&self) -> Option<&Handle> {
        self.io.as_ref().map(Runtime::handle)
    }

    /// Runs what blocks on a thread of low priority; threads that it starts inherit the priority. `None` if it panicked
    /// or the executor ends. Dropping the future does not stop it.
    pub(super) async fn run_blocking<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.slow.as_ref()?.handle().spawn_blocking(work).await.ok()
    }
}

impl Drop for Executor {
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

impl Meter {
    /// The CPU time so far. To be called by the attempt itself, while it runs.
    pub(super) fn spent_ns(&self) -> u64 {
        let running_ns = thread_cpu_ns().saturating_sub(self.began_ns.load(Ordering::Relaxed));
        self.spent_ns.load(Ordering::Relaxed).saturating_add(running_ns)
    }

    /// Does the work and counts its CPU time. Gives the time counted in all beside the answer.
    fn measure<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        self.began_ns.store(thread_cpu_ns(), Ordering::Relaxed);
        let answer = work();
        let spent_ns = self.spent_ns();
        self.spent_ns.store(spent_ns, Ordering::Relaxed);
        (answer, spent_ns)
    }
}

/// An attempt under way and who waits for it.
struct Running<T> {
    attempt: Pin<Box<dyn Future<Output = T> + Send>>,
    reply: Option<oneshot::Sender<T>>,
    meter: Arc<Meter>,
}

/// What a turn on a tier came to.
enum Turn {
    Ended,
    SliceUsedUp,
}

impl<T> Running<T> {
    fn poll(&mut self, context: &mut Context<'_>, slice_ns: u64) -> Poll<Turn> {
        if self.reply.as_mut().is_none_or(|reply| reply.poll_closed(context).is_ready()) {
            return Poll::Ready(Turn::Ended);
        }
        let (polled, spent_ns) = self.meter.measure(|| self.attempt.as_mut().poll(context));
        match polled {
            Poll::Ready(answer) => {
                // Whoever waited may have gone a moment ago.
                let _ = self.reply.take().map(|reply| reply.send(answer));
                Poll::Ready(Turn::Ended)
            }
            Poll::Pending if spent_ns > slice_ns => Poll::Ready(Turn::SliceUsedUp),
            Poll::Pending => Poll::Pending,
        }
    }
}

async fn on_fast_tier<T: Send + 'static>(mut running: Running<T>, slow: Handle) {
    if let Turn::SliceUsedUp = poll_fn(|context| running.poll(context, FAST_SLICE_NS)).await {
        slow.spawn(async move { poll_fn(|context| running.poll(context, u64::MAX)).await });
    }
}

fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Burns CPU time in turns of half a millisecond and tells on which threads.
    async fn burn(for_ns: u64) -> Vec<String> {
        let mut threads = Vec::new();
        let mut burnt_ns = 0;
        while burnt_ns < for_ns {
            let began_ns = thread_cpu_ns();
            while thread_cpu_ns() - began_ns < 500_000 {
                std::hint::spin_loop();
            }
            burnt_ns += thread_cpu_ns() - began_ns;
            threads.push(std::thread::current().name().unwrap_or_default().to_owned());
            tokio::task::yield_now().await;
        }
        threads
    }

    #[tokio::test]
    async fn an_attempt_that_burns_cpu_is_moved_to_the_slow_tier_in_the_midst_of_it() {
        let executor = Executor::start(1).unwrap();
        let threads = executor.run(Arc::default(), burn(10_000_000)).await.unwrap();
        assert_eq!(threads.first().unwrap(), "plugin-fast");
        assert_eq!(threads.last().unwrap(), "plugin-slow");
    }

    #[tokio::test]
    async fn quick_attempts_end_while_others_burn() {
        let executor = Arc::new(Executor::start(1).unwrap());
        let mut burning = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let executor = executor.clone();
            burning.spawn(async move { executor.run(Arc::default(), burn(200_000_000)).await });
        }
        for _ in 0..20 {
            assert!(executor.run(Arc::default(), burn(0)).await.is_some());
        }
        assert!(burning.try_join_next().is_none(), "20 quick attempts ended before one that burns 200 ms");
    }

    #[tokio::test]
    async fn a_panic_ends_its_attempt_and_nothing_else() {
        let executor = Executor::start(1).unwrap();
        assert!(executor.run::<(), _>(Arc::default(), async { panic!("as the test wants") }).await.is_none());
        assert_eq!(executor.run(Arc::default(), async { 5 }).await, Some(5));
        assert_eq!(executor.run_blocking(|| 5).await, Some(5));
    }

    #[tokio::test]
    async fn an_attempt_whose_caller_has_gone_is_dropped() {
        let executor = Executor::start(1).unwrap();
        let (alive, mut dropped) = oneshot::channel::<()>();
        let attempt = executor.run(Arc::default(), async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        assert!(tokio::time::timeout(Duration::from_millis(5), attempt).await.is_err());
        assert!((&mut dropped).await.is_err());
    }
}
