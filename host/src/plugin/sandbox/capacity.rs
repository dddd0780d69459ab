//! How many instances the sandbox has room for: the wanted number, or as many as the address space holds.
//!
//! Each memory of a guest reserves 4 GiB of address space, so that its accesses need no checks. Most machines have 128 TiB;
//! some kernels and limits (`ulimit -v`) leave a few hundred GiB. So the room is counted in memories: four for each attempt,
//! which a component may have at most, would take four times the space for nothing.

/// The most memories of one component.
pub(in crate::plugin) const MAX_MEMORIES: u32 = 4;
/// The most tables of one component.
pub(in crate::plugin) const MAX_TABLES: u32 = 32;

/// How many first instances may exist at once. They have their own room, so that plugins load however many attempts run.
pub(in crate::plugin) const INTRODUCTIONS: usize = 2;
/// How many idle instances may be kept, of all plugins. Each one keeps its memory.
const MAX_IDLE: usize = 64;
/// The smallest capacity: one attempt of a component with the most memories.
const LEAST: usize = MAX_MEMORIES as usize;

/// Room for instances, counted in memories. Most components have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) struct InstanceCapacity {
    /// For running attempts.
    pub(in crate::plugin) running: usize,
    /// For idle instances.
    pub(in crate::plugin) idle: usize,
}

impl InstanceCapacity {
    /// Room for `attempts` attempts, and idle instances in proportion.
    pub(in crate::plugin) fn of(attempts: usize) -> Self {
        let attempts = attempts.max(LEAST);
        Self { running: attempts, idle: (attempts / 4).min(MAX_IDLE) }
    }

    /// The most instances that exist at once.
    pub(in crate::plugin) fn instances(self) -> usize {
        self.running.saturating_add(self.idle).saturating_add(INTRODUCTIONS)
    }

    /// The most memories that exist at once.
    pub(in crate::plugin) fn memories(self) -> usize {
        self.running.saturating_add(self.idle).saturating_add(INTRODUCTIONS * LEAST)
    }

    /// The next smaller capacity of a fixed series; `None` below the smallest. The series does not depend on where it
    /// starts, so that a concurrency suggested in an error has room when it is tried.
    fn less(self) -> Option<Self> {
        let steps = std::iter::successors(Some(LEAST), |step| Some(step + step.div_ceil(3)));
        steps.take_while(|step| *step < self.running).last().map(Self::of)
    }

    /// A capacity larger by a quarter.
    fn more(self) -> Self {
        let more = |n: usize| n.saturating_add(n.div_ceil(4));
        Self { running: more(self.running), idle: more(self.idle) }
    }

    /// The largest capacity up to this one for which `build` succeeds with a quarter more, which is left to the rest of the
    /// process. `None` if the smallest fails.
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

    /// The capacity for so many attempts where the address space has room for so many memories.
    fn fitting(attempts: usize, memories: usize) -> Option<InstanceCapacity> {
        InstanceCapacity::of(attempts).fitting(|capacity| capacity.memories() <= memories)
    }

    #[test]
    fn a_capacity_that_fits_is_used_in_full() {
        assert_eq!(fitting(320, 1_000_000), Some(InstanceCapacity { running: 320, idle: 64 }));
        assert_eq!(fitting(1, 1_000_000), Some(InstanceCapacity { running: 4, idle: 1 }));
    }

    #[test]
    fn with_less_room_the_capacity_is_smaller_and_leaves_a_rest() {
        for memories in [24, 60, 120, 300] {
            let capacity = fitting(4_352, memories).unwrap();
            assert!(capacity.memories() < memories, "{memories}: {capacity:?}");
            assert!(capacity.running * 4 > memories, "{memories}: {capacity:?}");
        }
    }

    #[test]
    fn without_room_for_the_smallest_there_is_no_capacity() {
        assert_eq!(fitting(320, 10), None);
    }
}
