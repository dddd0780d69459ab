//! The clock that interrupts guests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// How often running guests are interrupted. A guest yields its thread at each tick.
const TICK: Duration = Duration::from_millis(1);

/// Advances the engine's epoch while guests run, on a thread that guests cannot delay. It sleeps while none runs.
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

/// While one of these exists, the epoch advances.
#[derive(Debug)]
pub(in crate::plugin) struct TickGuard(Arc<TickerState>);

impl EpochTicker {
    /// Starts the thread. It does not keep the engine alive.
    ///
    /// # Errors
    /// The thread could not be started.
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
        // The thread waits for this first, so sending does not fail.
        let _ = hand_over.send(shared.clone());
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Advances the epoch until the guard is dropped.
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
            // It does not panic, and it sleeps at most a tick.
            let _ = thread.join();
        }
    }
}
