//! How many runs go on side by side: each has several processes, which wait most of the time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// As many as two cores serve without standing in each other's way.
const SIDE_BY_SIDE: usize = 2;

static UNDER_WAY: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Held while a run goes on.
pub struct Turn(());

impl Turn {
    /// Waits until there is room for another run.
    pub fn take() -> Self {
        let full = |under_way: &mut usize| *under_way >= SIDE_BY_SIDE;
        let mut under_way = ENDED.wait_while(under_way(), full).unwrap_or_else(PoisonError::into_inner);
        *under_way += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *under_way() -= 1;
        ENDED.notify_one();
    }
}

fn under_way() -> MutexGuard<'static, usize> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}
