//! Limits how many runs go on at a time. Each run has several processes, which wait most of the time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many runs two cores can serve without disturbing each other.
const SIDE_BY_SIDE: usize = 2;

static UNDER_WAY: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// A permit for one run.
pub struct RunPermit(());

impl RunPermit {
    /// Waits until another run may begin.
    pub fn take() -> Self {
        let full = |under_way: &mut usize| *under_way >= SIDE_BY_SIDE;
        let mut under_way = ENDED.wait_while(under_way(), full).unwrap_or_else(PoisonError::into_inner);
        *under_way += 1;
        Self(())
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        *under_way() -= 1;
        ENDED.notify_one();
    }
}

fn under_way() -> MutexGuard<'static, usize> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}
