//! Whether memory of this process may be written to a disk.
//!
//! The engine can find the pages that an instance wrote by asking the kernel, and give the rest to the next one as they
//! are. As released, it overlooks pages that were swapped out meanwhile, so that the next instance could read them. So
//! that way is taken only where nothing can be swapped out, and left for good once something might have been.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Watches for places to swap to.
#[derive(Debug)]
pub(super) struct Swap {
    /// The kernel's list: a header, then a line for each place.
    list: PathBuf,
    may_happen: AtomicBool,
}

impl Swap {
    /// Watches the list of a kernel. One that cannot be read counts as a place to swap to.
    pub(super) fn watch(list: PathBuf) -> Self {
        let swap = Self { list, may_happen: AtomicBool::new(false) };
        swap.look();
        swap
    }

    /// Looks at the list again. What was seen once is not forgotten: pages may be out there still.
    pub(super) fn look(&self) {
        let is_empty = std::fs::read_to_string(&self.list).is_ok_and(|list| list.lines().skip(1).all(str::is_empty));
        if !is_empty && !self.may_happen.swap(true, Ordering::AcqRel) {
            tracing::debug!("memory may be swapped out: what instances leave behind is returned to the kernel");
        }
    }

    /// Whether anything may have been swapped out.
    pub(super) fn may_happen(&self) -> bool {
        self.may_happen.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_swap_to_is_noticed_and_never_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("swaps");
        std::fs::write(&list, "Filename\tType\tSize\tUsed\tPriority\n").unwrap();
        let swap = Swap::watch(list.clone());
        assert!(!swap.may_happen());
        std::fs::write(&list, "Filename\tType\tSize\tUsed\tPriority\n/dev/sdb partition 100 0 -2\n").unwrap();
        swap.look();
        assert!(swap.may_happen());
        std::fs::write(&list, "Filename\tType\tSize\tUsed\tPriority\n").unwrap();
        swap.look();
        assert!(swap.may_happen());
    }

    #[test]
    fn a_list_that_cannot_be_read_is_no_reason_to_feel_safe() {
        assert!(Swap::watch(PathBuf::from("/nowhere/swaps")).may_happen());
    }
}
