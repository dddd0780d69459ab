//! Measures the CPU time of an attempt across threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

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
