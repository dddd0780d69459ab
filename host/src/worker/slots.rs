//! How many attempts may begin, of which lane: pure accounting.
//!
//! Every lane has slots of its own, so that a plugin whose attempts are slow holds up nobody else's (G8). The host's
//! own limit is far above one lane's and only bounds memory; even when it is reached, a lane of which nothing runs may
//! begin one attempt.

use std::collections::HashMap;

use crate::broker::{Claim, Lane, LaneWant};

/// Which slots are taken.
#[derive(Debug)]
pub(super) struct Slots {
    host_limit: usize,
    taken: HashMap<Lane, usize>,
    total: usize,
    turn: usize,
}

impl Slots {
    /// All slots free.
    pub(super) fn new(host_limit: usize) -> Self {
        Self { host_limit, taken: HashMap::new(), total: 0, turn: 0 }
    }

    /// What to ask the broker for, given each lane's limit; `None` when no lane has a free slot. The lane that comes
    /// first changes with each call, so that all have their turn when there is not enough for all.
    pub(super) fn claim(&mut self, lanes: &[(Lane, usize)]) -> Option<Claim> {
        let host_free = self.host_limit.saturating_sub(self.total);
        let mut wants: Vec<LaneWant> = lanes
            .iter()
            .filter_map(|(lane, limit)| {
                let taken = self.taken.get(lane).copied().unwrap_or(0);
                let own_free = limit.saturating_sub(taken);
                let free = if taken == 0 { own_free.min(host_free.max(1)) } else { own_free.min(host_free) };
                (free > 0).then(|| LaneWant { lane: lane.clone(), free })
            })
            .collect();
        if wants.is_empty() {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % wants.len();
        wants.rotate_left(first);
        let max = if host_free > 0 { host_free } else { wants.len() };
        Some(Claim { lanes: wants, max })
    }

    /// An attempt of this lane begins.
    pub(super) fn take(&mut self, lane: &Lane) {
        *self.taken.entry(lane.clone()).or_default() += 1;
        self.total += 1;
    }

    /// An attempt of this lane has ended.
    pub(super) fn release(&mut self, lane: &Lane) {
        if let Some(taken) = self.taken.get_mut(lane) {
            *taken -= 1;
            self.total -= 1;
            if *taken == 0 {
                self.taken.remove(lane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> Lane {
        name.parse().unwrap()
    }

    fn wanted(slots: &mut Slots, lanes: &[(Lane, usize)]) -> Vec<(String, usize)> {
        let mut wants: Vec<_> = slots
            .claim(lanes)
            .into_iter()
            .flat_map(|claim| claim.lanes)
            .map(|want| (want.lane.to_string(), want.free))
            .collect();
        wants.sort();
        wants
    }

    #[test]
    fn a_lane_that_is_full_leaves_the_others_theirs() {
        let mut slots = Slots::new(100);
        let lanes = [(lane("slow"), 2), (lane("quick"), 3)];
        slots.take(&lane("slow"));
        slots.take(&lane("slow"));
        assert_eq!(wanted(&mut slots, &lanes), [("quick".into(), 3)]);
        slots.release(&lane("slow"));
        assert_eq!(wanted(&mut slots, &lanes), [("quick".into(), 3), ("slow".into(), 1)]);
    }

    #[test]
    fn a_lane_of_which_nothing_runs_may_begin_though_the_host_is_full() {
        let mut slots = Slots::new(2);
        let lanes = [(lane("a"), 2), (lane("b"), 2)];
        slots.take(&lane("a"));
        slots.take(&lane("a"));
        assert_eq!(wanted(&mut slots, &lanes), [("b".into(), 1)]);
        slots.take(&lane("b"));
        assert_eq!(wanted(&mut slots, &lanes), []);
        assert_eq!(slots.total, 3);
    }

    #[test]
    fn every_lane_comes_first_in_its_turn() {
        let mut slots = Slots::new(10);
        let lanes = [(lane("a"), 1), (lane("b"), 1), (lane("c"), 1)];
        let mut firsts: Vec<_> = (0..3).map(|_| slots.claim(&lanes).unwrap().lanes.remove(0).lane).collect();
        firsts.sort();
        assert_eq!(firsts, [lane("a"), lane("b"), lane("c")]);
    }

    #[test]
    fn releasing_what_was_not_taken_changes_nothing() {
        let mut slots = Slots::new(1);
        slots.release(&lane("a"));
        assert_eq!(slots.total, 0);
    }
}
