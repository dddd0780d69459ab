//! Where guests run: an engine with everything that a plugin may import, and another one for when memory may be swapped
//! out.
//!
//! Whoever prepared a component in the first moves it over to the second at its next attempt, since only the memory of
//! instances differs; attempts under way end where they began.

use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::Linker;

use super::engine::{self, Memory};
use super::host::{self, Guest};
use super::swap::Swap;

/// The most instances that wait to be used again, of all plugins together. Each holds its memory.
const MAX_IDLE: u32 = 64;

/// The engines of all plugins of a registry.
pub(super) struct Sandbox {
    slots: u32,
    stack_bytes: usize,
    preferred: Place,
    memory: Memory,
    idle_room: Arc<Semaphore>,
    /// Made when it is needed.
    without_scan: OnceLock<Option<Place>>,
    swap: Swap,
}

/// An engine and what it offers.
pub(super) struct Place {
    pub(super) engine: Engine,
    pub(super) linker: Arc<Linker<Guest>>,
}

impl Place {
    fn build(slots: u32, stack_bytes: usize, memory: Memory) -> wasmtime::Result<Self> {
        let engine = engine::build(slots, stack_bytes, memory)?;
        let linker = Arc::new(host::linker(&engine)?);
        Ok(Self { engine, linker })
    }
}

impl Sandbox {
    /// A sandbox in which `slots` instances run side by side, each with a native stack of `stack_bytes`, while some others
    /// wait.
    ///
    /// # Errors
    /// The address space does not suffice, or the system lacks what the engine needs.
    pub(super) fn start(slots: u32, stack_bytes: usize, swap: Swap) -> wasmtime::Result<Self> {
        let idle = slots.min(MAX_IDLE);
        let slots = slots.saturating_add(idle);
        let idle_room = Arc::new(Semaphore::new(usize::try_from(idle).unwrap_or(0)));
        let scanned = match swap.may_happen() {
            true => None,
            // Kernels before 6.7 cannot tell which pages were written.
            false => Place::build(slots, stack_bytes, Memory::Scanned).ok(),
        };
        let (preferred, memory) = match scanned {
            Some(place) => (place, Memory::Scanned),
            None => (Place::build(slots, stack_bytes, Memory::Returned)?, Memory::Returned),
        };
        Ok(Self { slots, stack_bytes, preferred, memory, idle_room, without_scan: OnceLock::new(), swap })
    }

    /// Where components are prepared first.
    pub(super) fn preferred(&self) -> &Place {
        &self.preferred
    }

    /// A permit for each instance that may wait.
    pub(super) fn idle_room(&self) -> &Arc<Semaphore> {
        &self.idle_room
    }

    /// Whether what was prepared there must not run there any more.
    pub(super) fn has_moved(&self) -> bool {
        self.memory == Memory::Scanned && self.swap.may_happen()
    }

    /// Where it runs then; `None` if that cannot be set up.
    pub(super) fn without_scan(&self) -> Option<&Place> {
        let build = || {
            let place = Place::build(self.slots, self.stack_bytes, Memory::Returned);
            place
                .inspect_err(|error| tracing::error!("the sandbox for a system that swaps cannot be set up: {error:#}"))
                .ok()
        };
        self.without_scan.get_or_init(build).as_ref()
    }

    /// Time goes on for guests, wherever they run.
    pub(super) fn tick(&self) {
        self.preferred.engine.increment_epoch();
        if let Some(Some(place)) = self.without_scan.get() {
            place.engine.increment_epoch();
        }
    }

    /// Looks whether memory may be swapped out by now.
    pub(super) fn look_for_swap(&self) {
        self.swap.look();
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("slots", &self.slots).field("memory", &self.memory).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{event, guest, options};
    use super::super::{Attempt, MemoryState, Options, Registry};
    use super::*;
    use crate::event::Outcome;

    const NOTHING: &str = "Filename\tType\tSize\tUsed\tPriority\n";

    /// Traps if anything is found in memory that an earlier call has written, then writes: in more places than the kernel
    /// tells of at once, below and above where memory begins to be grown.
    const WRITES_EVERYWHERE: &str = "
        (if (i32.load (i32.const 60000)) (then (unreachable)))
        (i32.store (i32.const 60000) (i32.const -1))
        (drop (memory.grow (i32.const 63)))
        (local.set $n (i32.const 65536))
        (loop $next
            (if (i32.load (local.get $n)) (then (unreachable)))
            (i32.store (local.get $n) (i32.const -1))
            (local.set $n (i32.add (local.get $n) (i32.const 8192)))
            (br_if $next (i32.lt_u (local.get $n) (i32.const 4194304))))
        i32.const 1024";

    #[tokio::test]
    async fn nothing_that_was_written_is_read_by_the_next_wherever_instances_run() {
        let dir = tempfile::tempdir().unwrap();
        let (plugins, swaps) = (dir.path().join("plugins"), dir.path().join("swaps"));
        fs::create_dir(&plugins).unwrap();
        fs::write(plugins.join("test.wasm"), guest(WRITES_EVERYWHERE)).unwrap();
        fs::write(&swaps, NOTHING).unwrap();
        let registry = Registry::open(Options { swaps: swaps.clone(), ..options(&plugins) }).await.unwrap();
        let sandbox = registry.loader.sandbox.clone();
        let plugin = registry.route(&"test".parse().unwrap()).unwrap();
        let attempt = async || {
            let attempt = Attempt { event: event("{}").into(), attempt: 1 };
            let outcome = plugin.handle(attempt, Arc::new(MemoryState::default())).await.outcome;
            assert!(matches!(outcome, Outcome::Ok(_)), "{outcome:?}");
        };
        for _ in 0..20 {
            attempt().await;
        }
        assert!(!sandbox.has_moved());
        fs::write(&swaps, format!("{NOTHING}/dev/sdb partition 100 0 -2\n")).unwrap();
        sandbox.look_for_swap();
        // Where the kernel cannot tell what was written there is no other place to go to.
        assert_eq!(sandbox.has_moved(), sandbox.memory == Memory::Scanned);
        for _ in 0..20 {
            attempt().await;
        }
    }
}
