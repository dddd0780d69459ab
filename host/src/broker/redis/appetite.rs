//! How much a claim asks for: pure arithmetic.
//!
//! Nobody knows how large what waits is before it has come. Where an answer is lost or late, the next claim asks for half
//! as much, since what was too much for the wire would be so again, and all of it is pending for nobody meanwhile. What
//! turned out well is asked for a little more each time.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How much more is asked for after a claim that brought all that it could: one in so many, and one at least.
const GROWTH: usize = 16;

/// The most entries that a claim asks for at present.
#[derive(Debug)]
pub(super) struct ClaimBudget {
    most: usize,
    now: AtomicUsize,
}

impl ClaimBudget {
    /// Asks for `most` until an answer is lost.
    pub(super) fn new(most: usize) -> Self {
        Self { most, now: AtomicUsize::new(most) }
    }

    /// How many to ask for where so many are wanted.
    pub(super) fn of(&self, wanted: usize) -> usize {
        wanted.min(self.now.load(Ordering::Relaxed))
    }

    /// The answer to a claim of so many was lost.
    pub(super) fn lost(&self, asked: usize) {
        let halved = |now: usize| Some(now.min(asked / 2).max(1));
        let _ = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, halved);
    }

    /// A claim brought so many.
    pub(super) fn brought(&self, n: usize) {
        let grown = |now: usize| (n >= now && now < self.most).then(|| (now + (now / GROWTH).max(1)).min(self.most));
        let _ = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_halved_by_each_lost_answer_and_grows_back_with_what_comes() {
        let appetite = ClaimBudget::new(500);
        assert_eq!((appetite.of(9), appetite.of(800)), (9, 500));
        appetite.lost(500);
        assert_eq!((appetite.of(9), appetite.of(800)), (9, 250));
        appetite.lost(40);
        assert_eq!(appetite.of(800), 20);
        appetite.brought(3);
        assert_eq!(appetite.of(800), 20, "a claim that found little shows nothing");
        appetite.brought(20);
        assert_eq!(appetite.of(800), 21);
        for _ in 0..100 {
            appetite.brought(appetite.of(800));
        }
        assert_eq!(appetite.of(800), 500);
        for _ in 0..20 {
            appetite.lost(appetite.of(800));
        }
        assert_eq!(appetite.of(800), 1, "it never ends");
    }
}
