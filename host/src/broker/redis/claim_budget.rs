//! How many entries a claim may ask for.
//!
//! The size of waiting entries is unknown before they arrive. A lost or late reply may have been too large for the
//! connection, and its entries stay pending meanwhile. So the next claim asks for half as many, and each full claim that
//! arrives raises the number a little.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A full claim raises the budget by one part in so many, and by at least one.
const GROWTH_PARTS: usize = 16;

/// The most entries that the next claim may ask for.
#[derive(Debug)]
pub(super) struct ClaimBudget {
    max: usize,
    current: AtomicUsize,
}

impl ClaimBudget {
    /// A budget of `max` until a reply is lost.
    pub(super) fn new(max: usize) -> Self {
        Self { max, current: AtomicUsize::new(max) }
    }

    /// Limits a number of wanted entries.
    pub(super) fn limit(&self, wanted: usize) -> usize {
        wanted.min(self.current.load(Ordering::Relaxed))
    }

    /// Notes that the reply to a claim of so many entries was lost.
    pub(super) fn note_loss(&self, asked: usize) {
        let halved = |now: usize| Some(now.min(asked / 2).max(1));
        let _ = self.current.fetch_update(Ordering::Relaxed, Ordering::Relaxed, halved);
    }

    /// Notes that a claim returned so many entries.
    pub(super) fn note_result(&self, n: usize) {
        let grown =
            |now: usize| (n >= now && now < self.max).then(|| (now + (now / GROWTH_PARTS).max(1)).min(self.max));
        let _ = self.current.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lost_reply_halves_the_budget_and_full_claims_raise_it_again() {
        let budget = ClaimBudget::new(500);
        assert_eq!((budget.limit(9), budget.limit(800)), (9, 500));
        budget.note_loss(500);
        assert_eq!((budget.limit(9), budget.limit(800)), (9, 250));
        budget.note_loss(40);
        assert_eq!(budget.limit(800), 20);
        budget.note_result(3);
        assert_eq!(budget.limit(800), 20, "a claim that found few entries proves nothing");
        budget.note_result(20);
        assert_eq!(budget.limit(800), 21);
        for _ in 0..100 {
            budget.note_result(budget.limit(800));
        }
        assert_eq!(budget.limit(800), 500);
        for _ in 0..20 {
            budget.note_loss(budget.limit(800));
        }
        assert_eq!(budget.limit(800), 1, "the budget never reaches 0");
    }
}
