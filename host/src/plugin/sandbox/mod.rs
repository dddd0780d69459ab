//! The sandbox of the guests: an engine with everything that a plugin may import.

pub(super) mod capacity;
pub(super) mod engine;
pub(super) mod limits;
pub(super) mod memory_image;
pub(super) mod ticker;

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::Linker;

use self::capacity::InstanceCapacity;
use super::host_api::{self, InstanceHost};

/// The engine of all plugins of a registry, and its linker.
pub(super) struct Sandbox {
    pub(super) engine: Engine,
    pub(super) linker: Arc<Linker<InstanceHost>>,
    /// How many instances it has room for.
    pub(super) capacity: InstanceCapacity,
    /// One permit for each memory that idle instances may keep.
    pub(super) idle_permits: Arc<Semaphore>,
}

impl Sandbox {
    /// A sandbox with the wanted capacity, or with as much of it as the address space holds. Each instance has a native
    /// stack of `stack_bytes`.
    ///
    /// # Errors
    /// The address space is too small for one attempt, or the system lacks something that the engine needs.
    pub(super) fn start(wanted: InstanceCapacity, stack_bytes: usize) -> wasmtime::Result<Self> {
        let mut last = None;
        let fitting = wanted.fitting(|capacity| match engine::build(capacity, stack_bytes) {
            Ok(_) => true,
            Err(error) => {
                last = Some(error);
                false
            }
        });
        let Some(capacity) = fitting else {
            return Err(last.unwrap_or_else(|| wasmtime::format_err!("no room for a single attempt")));
        };
        let engine = engine::build(capacity, stack_bytes)?;
        let linker = Arc::new(host_api::build_linker(&engine)?);
        Ok(Self { engine, linker, capacity, idle_permits: Arc::new(Semaphore::new(capacity.idle)) })
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use crate::event::AttemptOutcome;
    use crate::plugin::AttemptLimits;
    use crate::plugin::testing::{SolePlugin, sole};

    /// Traps if memory holds what an earlier call wrote. Then writes to the kept part, to each page beyond it, and to memory
    /// that it grows.
    const WRITES_EVERYWHERE: &str = "
        (if (i32.load (i32.const 60000)) (then (unreachable)))
        (i32.store (i32.const 60000) (i32.const -1))
        (drop (memory.grow (i32.const 63)))
        (local.set $n (i32.const 65536))
        (loop $next
            (if (i32.load (local.get $n)) (then (unreachable)))
            (i32.store (local.get $n) (i32.const -1))
            (local.set $n (i32.add (local.get $n) (i32.const 4096)))
            (br_if $next (i32.lt_u (local.get $n) (i32.const 4194304))))
        (call $ok)";

    async fn attempts(sole: &SolePlugin, number: u32) {
        for _ in 0..number {
            let outcome = sole.attempt().await.outcome;
            assert!(matches!(outcome, AttemptOutcome::Ok(_)), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn an_instance_reads_nothing_that_an_earlier_one_wrote() {
        attempts(&sole(WRITES_EVERYWHERE, AttemptLimits::default()).await, 50).await;
    }

    #[tokio::test]
    async fn an_instance_reads_nothing_that_an_earlier_one_wrote_while_the_kernel_moves_pages() {
        // Only root may ask the kernel to move pages.
        let Ok(mut mover) = OpenOptions::new().write(true).open("/proc/sys/vm/compact_memory") else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let moving = thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                mover.write_all(b"1").unwrap();
            }
        });
        attempts(&sole(WRITES_EVERYWHERE, AttemptLimits::default()).await, 300).await;
        stop.store(true, Ordering::Release);
        moving.join().unwrap();
    }
}
