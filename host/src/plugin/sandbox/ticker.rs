//! The clock that interrupts guests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// How often running guests are interrupted. A guest yields its thread at each tick.
const TICK: Duration = Duration::from_millis(1);

/// Moves the engine's epoch on while guests run, from a thread that no guest can hold up. Asleep while none does.
#[derive(Debug)]
pub(in crate::plugin) struct EpochTicker {
    shared: Arc<TickerState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct TickerState {
    running: AtomicUsize,
    stop: AtomicBool,
    thread: Thread,
}

/// While one of these lives, the epoch moves on.
#[derive(Debug)]
pub(in crate::plugin) struct TickGuard(Arc<TickerState>);

impl EpochTicker {
    /// Starts the thread. It does not keep the engine alive.
    pub(in crate::plugin) fn start(engine: &Engine) -> std::io::Result<Self> {
        let weak = engine.weak();
        let (hand_over, handed_over) = std::sync::mpsc::sync_channel::<Arc<TickerState>>(1);
        let thread = thread::Builder::new().name("plugin-ticker".into()).spawn(move || {
            let Ok(shared) = handed_over.recv() else { return };
            while !shared.stop.load(Ordering::Acquire) {
                if shared.running.load(Ordering::Acquire) == 0 {
                    thread::park();
                    continue;
                }
                thread::sleep(TICK);
                let Some(engine) = weak.upgrade() else { return };
                engine.increment_epoch();
            }
        })?;
        let shared = Arc::new(TickerState {
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            thread: thread.thread().clone(),
        });
        // The thread waits for this and does nothing else before, so it is there to take it.
        let _ = hand_over.send(shared.clone());
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Keeps the epoch moving until the answer is dropped.
    pub(in crate::plugin) fn ticking(&self) -> TickGuard {
        if self.shared.running.fetch_add(1, Ordering::AcqRel) == 0 {
            self.shared.thread.unpark();
        }
        TickGuard(self.shared.clone())
    }
}

impl Drop for TickGuard {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for EpochTicker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.thread.unpark();
        if let Some(thread) = self.thread.take() {
            // It never panics and sleeps no longer than a tick.
            let _ = thread.join();
        }
    }
}
