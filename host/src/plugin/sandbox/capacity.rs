//! How many attempts the sandbox has room for: as many as may run, or as many as the address space holds.
//!
//! Each memory of a guest has 4 GiB of address space, so that its accesses need no checks. Most machines have 128 TiB; some
//! kernels and limits (`ulimit -v`) leave a few hundred GiB.

/// The most memories of one component.
pub(in crate::plugin) const MAX_MEMORIES: u32 = 4;
/// The most tables of one component.
pub(in crate::plugin) const MAX_TABLES: u32 = 32;

/// First instances side by side. They have room of their own, so that a plugin is loaded however many attempts run.
pub(in crate::plugin) const INTRODUCTIONS: usize = 2;
/// The most instances that wait to be used again, of all plugins together. Each holds its memory.
const MAX_IDLE: usize = 64;
/// The fewest attempts for which a sandbox is set up: one of a component with as many memories as it may have.
const LEAST: usize = MAX_MEMORIES as usize;

/// Room for instances, counted in memories. Most components have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) struct InstanceCapacity {
    /// Of attempts that run side by side.
    pub(in crate::plugin) attempts: usize,
    /// Of instances that wait to be used again.
    pub(in crate::plugin) idle: usize,
}

impl InstanceCapacity {
    /// Room for so many attempts.
    pub(in crate::plugin) fn of(attempts: usize) -> Self {
        let attempts = attempts.max(LEAST);
        Self { attempts, idle: (attempts / 4).min(MAX_IDLE) }
    }

    /// The most instances at once.
    pub(in crate::plugin) fn instances(self) -> usize {
        self.attempts.saturating_add(self.idle).saturating_add(INTRODUCTIONS)
    }

    /// The most memories at once.
    pub(in crate::plugin) fn memories(self) -> usize {
        self.attempts.saturating_add(self.idle).saturating_add(INTRODUCTIONS * LEAST)
    }

    /// The next smaller one of a row that is the same wherever it is begun, so that a concurrency that is told has room when
    /// it is tried; `None` below the smallest.
    fn less(self) -> Option<Self> {
        let steps = std::iter::successors(Some(LEAST), |step| Some(step + step.div_ceil(3)));
        steps.take_while(|step| *step < self.attempts).last().map(Self::of)
    }

    /// A quarter more.
    fn more(self) -> Self {
        let more = |n: usize| n.saturating_add(n.div_ceil(4));
        Self { attempts: more(self.attempts), idle: more(self.idle) }
    }

    /// The largest capacity up to this one for which `build` works, and which leaves a quarter as much for all else in the
    /// process. `None` if not even the smallest works.
    pub(in crate::plugin) fn fitting(self, mut build: impl FnMut(Self) -> bool) -> Option<Self> {
        let mut capacity = self;
        while !build(capacity.more()) {
            capacity = capacity.less()?;
        }
        Some(capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fits where there is room for so many memories.
    fn fitting(attempts: usize, memories: usize) -> Option<InstanceCapacity> {
        InstanceCapacity::of(attempts).fitting(|capacity| capacity.memories() <= memories)
    }

    #[test]
    fn what_fits_is_taken_whole() {
        assert_eq!(fitting(320, 1_000_000), Some(InstanceCapacity { attempts: 320, idle: 64 }));
        assert_eq!(fitting(1, 1_000_000), Some(InstanceCapacity { attempts: 4, idle: 1 }));
    }

    #[test]
    fn where_there_is_less_room_less_is_taken_and_some_is_left() {
        for memories in [24, 60, 120, 300] {
            let capacity = fitting(4_352, memories).unwrap();
            assert!(capacity.memories() < memories, "{memories}: {capacity:?}");
            assert!(capacity.attempts * 4 > memories, "{memories}: {capacity:?}");
        }
    }

    #[test]
    fn where_nothing_fits_there_is_none() {
        assert_eq!(fitting(320, 10), None);
    }
}
