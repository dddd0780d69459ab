//! How many attempts may begin, of which lane: pure accounting.
//!
//! Every lane has slots of its own, so that a plugin whose attempts are slow holds up nobody else's (G8). The host's
//! own limit is far above one lane's and only bounds memory; even when it is reached, a lane of which nothing runs may
//! begin one attempt.

use std::collections::HashMap;

use crate::broker::{Claim, Lane, LaneWant};

/// The most deliveries of all lanes together that are claimed before there is a slot for them.
const MAX_WAITING: usize = 2_048;

/// Which slots are taken, and what waits for one.
#[derive(Debug)]
pub(super) struct Slots {
    host_limit: usize,
    taken: HashMap<Lane, usize>,
    total: usize,
    waiting: HashMap<Lane, usize>,
    total_waiting: usize,
    turn: usize,
}

/// A lane that may have attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// The lane.
    pub(super) lane: Lane,
    /// Its slots.
    pub(super) limit: usize,
    /// How many deliveries of it may wait for them.
    pub(super) ahead: usize,
}

impl Want {
    /// A lane with so many slots, for which so many may wait.
    pub(super) fn new(lane: &Lane, limit: usize, ahead: usize) -> Self {
        Self { lane: lane.clone(), limit, ahead }
    }

    /// So many, if they are half of what may wait: what is only to wait is not asked for one by one.
    fn worth(&self, more: usize) -> usize {
        if more * 2 >= self.ahead { more } else { 0 }
    }
}

impl Slots {
    /// All slots free.
    pub(super) fn new(host_limit: usize) -> Self {
        Self { host_limit, taken: HashMap::new(), total: 0, waiting: HashMap::new(), total_waiting: 0, turn: 0 }
    }

    /// What to ask the broker for; `None` when no lane can use anything. The lane that comes first changes with each call,
    /// so that all have their turn when there is not enough for all.
    pub(super) fn claim(&mut self, lanes: &[Want]) -> Option<Claim> {
        let host_free = self.host_limit.saturating_sub(self.total + self.total_waiting);
        let mut host_ahead = MAX_WAITING.saturating_sub(self.total_waiting);
        let usable =
            |want| Some((want, self.usable(want, host_free, host_ahead))).filter(|(_, usable)| *usable != (0, 0));
        let mut usable: Vec<_> = lanes.iter().filter_map(usable).collect();
        if usable.is_empty() {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % usable.len();
        usable.rotate_left(first);
        let mut wants = Vec::with_capacity(usable.len());
        for (want, (free, more)) in usable {
            let more = want.worth(more.min(host_ahead));
            host_ahead -= more;
            if free + more > 0 {
                wants.push(LaneWant { lane: want.lane.clone(), free: free + more });
            }
        }
        let asked_ahead = MAX_WAITING.saturating_sub(self.total_waiting) - host_ahead;
        let max = if host_free > 0 { host_free } else { wants.len() } + asked_ahead;
        Some(Claim { lanes: wants, max })
    }

    /// Deliveries of a lane that can begin at once, and those that may wait for it to go on.
    fn usable(&self, want: &Want, host_free: usize, host_ahead: usize) -> (usize, usize) {
        let Want { lane, limit, ahead } = want;
        let used = self.taken.get(lane).copied().unwrap_or(0) + self.waiting(lane);
        let own_free = limit.saturating_sub(used);
        let free = if used == 0 { own_free.min(host_free.max(1)) } else { own_free.min(host_free) };
        let more = (limit + ahead).saturating_sub(used.max(*limit)).min(host_ahead);
        (free, want.worth(more))
    }

    /// Whether anything would be asked for a lane.
    pub(super) fn can_use(&self, want: &Want) -> bool {
        let host_free = self.host_limit.saturating_sub(self.total + self.total_waiting);
        self.usable(want, host_free, MAX_WAITING.saturating_sub(self.total_waiting)) != (0, 0)
    }

    /// How many attempts of this lane may begin, if it has so many slots.
    pub(super) fn free(&self, lane: &Lane, limit: usize) -> usize {
        let taken = self.taken.get(lane).copied().unwrap_or(0);
        let host_free = self.host_limit.saturating_sub(self.total);
        limit.saturating_sub(taken).min(if taken == 0 { host_free.max(1) } else { host_free })
    }

    /// Whether as many attempts are under way as the host may have.
    pub(super) fn is_full(&self) -> bool {
        self.total >= self.host_limit
    }

    /// How many deliveries of this lane wait.
    pub(super) fn waiting(&self, lane: &Lane) -> usize {
        self.waiting.get(lane).copied().unwrap_or(0)
    }

    /// A delivery of this lane waits for a slot.
    pub(super) fn wait(&mut self, lane: &Lane) {
        *self.waiting.entry(lane.clone()).or_default() += 1;
        self.total_waiting += 1;
    }

    /// A delivery of this lane does not wait any more.
    pub(super) fn wait_no_more(&mut self, lane: &Lane) {
        if lower(&mut self.waiting, lane) {
            self.total_waiting -= 1;
        }
    }

    /// An attempt of this lane begins.
    pub(super) fn take(&mut self, lane: &Lane) {
        *self.taken.entry(lane.clone()).or_default() += 1;
        self.total += 1;
    }

    /// An attempt of this lane has ended.
    pub(super) fn release(&mut self, lane: &Lane) {
        if lower(&mut self.taken, lane) {
            self.total -= 1;
        }
    }
}

/// One less of a lane; false if there was none.
fn lower(counts: &mut HashMap<Lane, usize>, lane: &Lane) -> bool {
    let Some(count) = counts.get_mut(lane) else { return false };
    *count -= 1;
    if *count == 0 {
        counts.remove(lane);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> Lane {
        name.parse().unwrap()
    }

    fn wanted(slots: &mut Slots, lanes: &[(Lane, usize)]) -> Vec<(String, usize)> {
        wanted_ahead(slots, lanes, 0)
    }

    fn wanted_ahead(slots: &mut Slots, lanes: &[(Lane, usize)], ahead: usize) -> Vec<(String, usize)> {
        let lanes: Vec<Want> = wants(lanes, ahead);
        let mut wants: Vec<_> = slots
            .claim(&lanes)
            .into_iter()
            .flat_map(|claim| claim.lanes)
            .map(|want| (want.lane.to_string(), want.free))
            .collect();
        wants.sort();
        wants
    }

    fn wants(lanes: &[(Lane, usize)], ahead: usize) -> Vec<Want> {
        lanes.iter().map(|(lane, limit)| Want { lane: lane.clone(), limit: *limit, ahead }).collect()
    }

    #[test]
    fn what_is_to_wait_is_asked_for_when_half_of_it_has_begun() {
        let mut slots = Slots::new(100);
        let lanes = [(lane("a"), 2)];
        assert_eq!(wanted_ahead(&mut slots, &lanes, 10), [("a".into(), 12)]);
        slots.take(&lane("a"));
        slots.take(&lane("a"));
        (0..10).for_each(|_| slots.wait(&lane("a")));
        for left in (6..10).rev() {
            slots.wait_no_more(&lane("a"));
            assert_eq!(wanted_ahead(&mut slots, &lanes, 10), [], "{left} wait");
        }
        slots.wait_no_more(&lane("a"));
        assert_eq!(wanted_ahead(&mut slots, &lanes, 10), [("a".into(), 5)]);
        assert_eq!(wanted_ahead(&mut slots, &lanes, 0), [], "what waits has the next slots");
    }

    #[test]
    fn no_more_waits_than_a_host_may_hold() {
        let mut slots = Slots::new(100);
        let lanes: Vec<_> = (0..20).map(|n| (lane(&format!("l{n}")), 1)).collect();
        let claim = slots.claim(&wants(&lanes, MAX_WAITING / 16)).unwrap();
        assert_eq!(claim.lanes.iter().map(|want| want.free).sum::<usize>(), 20 + MAX_WAITING);
        assert!(claim.max <= 100 + MAX_WAITING);
    }

    #[test]
    fn lanes_take_turns_where_not_all_of_them_may_wait() {
        let mut slots = Slots::new(100);
        let lanes: Vec<_> = (0..3).map(|n| (lane(&format!("l{n}")), 1)).collect();
        let mut ahead = || {
            let mut wanted = wanted_ahead(&mut slots, &lanes, MAX_WAITING / 2);
            wanted.retain(|(_, free)| *free > 1);
            wanted.into_iter().map(|(lane, _)| lane).collect::<Vec<_>>()
        };
        let mut turns: Vec<_> = (0..3).map(|_| ahead()).collect();
        turns.sort();
        assert_eq!(turns, [["l0", "l1"], ["l0", "l2"], ["l1", "l2"]]);
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
        let mut firsts: Vec<_> = (0..3).map(|_| slots.claim(&wants(&lanes, 0)).unwrap().lanes.remove(0).lane).collect();
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
