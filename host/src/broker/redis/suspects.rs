//! The pending entries that recovery may take over, in the order in which it tries them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::broker::Lane;
use crate::broker::takeover_order::takeover_order;

/// The most suspects that are kept for later calls.
const MAX_KEPT: usize = 100;
/// How long suspects are kept. Others with a better claim may appear meanwhile.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// An entry that is pending for some consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PendingEntry {
    pub(super) lane: Lane,
    pub(super) entry: String,
    /// The consumer that holds it.
    pub(super) owner: String,
    pub(super) idle_ms: u64,
    pub(super) deliveries: u32,
}

/// The entries of the last reading of all lanes that were not tried yet.
#[derive(Debug, Default)]
pub(super) struct SuspectList {
    waiting: VecDeque<PendingEntry>,
    read_at: Option<Instant>,
    /// The lane of the last suspect that was handed out.
    last_lane: Option<Lane>,
}

impl SuspectList {
    /// Keeps what was read at `now`. Entries with the fewest deliveries come first, so that an event that crashes its
    /// hosts delays no other. Among these, the lanes take turns.
    pub(super) fn keep(&mut self, found: Vec<PendingEntry>, now: Instant) {
        let ordered = takeover_order(found, self.last_lane.as_ref(), |row| (row.deliveries, row.lane.clone()));
        self.waiting = ordered.into_iter().take(MAX_KEPT).collect();
        self.read_at = Some(now);
    }

    /// Removes the next suspects, at most `max`; none if they were read too long ago.
    pub(super) fn take_next(&mut self, max: usize, now: Instant) -> Vec<PendingEntry> {
        if self.read_at.is_none_or(|read_at| now.saturating_duration_since(read_at) >= KEPT_FOR) {
            self.waiting.clear();
        }
        let next: Vec<PendingEntry> = self.waiting.drain(..max.min(self.waiting.len())).collect();
        if let Some(row) = next.last() {
            self.last_lane = Some(row.lane.clone());
        }
        next
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(lane: &str, number: u32, deliveries: u32) -> PendingEntry {
        let (entry, owner) = (format!("{number}-0"), "gone".into());
        PendingEntry { lane: lane.parse().unwrap(), entry, owner, idle_ms: 60_000, deliveries }
    }

    #[test]
    fn lanes_take_turns_across_readings() {
        let (mut suspects, now) = (SuspectList::default(), Instant::now());
        assert!(suspects.take_next(9, now).is_empty());
        let found = || vec![pending("a", 1, 1), pending("a", 2, 1), pending("b", 3, 1), pending("b", 4, 1)];
        suspects.keep(found(), now);
        let lanes = |next: Vec<PendingEntry>| next.iter().map(|row| row.lane.to_string()).collect::<String>();
        assert_eq!(lanes(suspects.take_next(3, now)), "aba");
        suspects.keep(found(), now);
        assert_eq!(lanes(suspects.take_next(9, now)), "baba", "it is the turn of the other lane");
    }

    #[test]
    fn suspects_are_kept_for_a_moment_and_in_limited_number() {
        let (mut suspects, now) = (SuspectList::default(), Instant::now());
        suspects.keep((0..1_000).map(|n| pending("a", n, 1)).collect(), now);
        assert_eq!(suspects.take_next(1, now + KEPT_FOR / 2).len(), 1);
        assert_eq!(suspects.waiting.len(), MAX_KEPT - 1);
        assert!(suspects.take_next(1, now + KEPT_FOR).is_empty());
        assert!(suspects.is_empty());
    }
}
