//! How many attempts may begin, of which lane: pure accounting.
//!
//! Every lane has slots of its own, so that a plugin whose attempts are slow holds up nobody else's (G8). The host's
//! own limit is far above one lane's and only bounds memory; even when it is reached, a lane of which nothing runs may
//! begin one attempt, for which the sandbox keeps a reserve.

use std::collections::HashMap;

use crate::broker::{ClaimRequest, Lane, LaneDemand};

/// The most deliveries of all lanes together that are claimed before there is a slot for them.
const MAX_WAITING: usize = 2_048;

/// Which slots are taken, and what waits for one.
#[derive(Debug)]
pub(super) struct SlotTable {
    host_limit: usize,
    limits: HashMap<Lane, usize>,
    used: HashMap<Lane, LaneUse>,
    total: usize,
    total_waiting: usize,
    /// Attempts under way, and deliveries that will have the next slots of their lanes. What waits behind those keeps
    /// nobody from beginning.
    total_committed: usize,
    turn: usize,
}

/// What a lane has of this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LaneUse {
    taken: usize,
    waiting: usize,
}

impl LaneUse {
    fn committed(self, limit: usize) -> usize {
        self.taken.max((self.taken + self.waiting).min(limit))
    }
}

/// A lane that may have attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantingLane {
    /// The lane.
    pub(super) lane: Lane,
    /// Its slots.
    pub(super) limit: usize,
    /// How many deliveries of it may wait for them.
    pub(super) ahead: usize,
}

impl WantingLane {
    /// A lane with so many slots, for which so many may wait.
    pub(super) fn new(lane: &Lane, limit: usize, ahead: usize) -> Self {
        Self { lane: lane.clone(), limit, ahead }
    }

    /// So many, if they are half of what may wait: what is only to wait is not asked for one by one.
    fn worth(&self, more: usize) -> usize {
        if more * 2 >= self.ahead { more } else { 0 }
    }
}

impl SlotTable {
    /// All slots free.
    pub(super) fn new(host_limit: usize) -> Self {
        Self {
            host_limit,
            limits: HashMap::new(),
            used: HashMap::new(),
            total: 0,
            total_waiting: 0,
            total_committed: 0,
            turn: 0,
        }
    }

    /// How many slots each lane has from now on.
    pub(super) fn set_limits(&mut self, limits: HashMap<Lane, usize>) {
        self.limits = limits;
        self.total_committed = self.used.iter().map(|(lane, used)| used.committed(self.limit(lane))).sum();
    }

    /// A lane that is not served any more begins all that waits.
    fn limit(&self, lane: &Lane) -> usize {
        self.limits.get(lane).copied().unwrap_or(usize::MAX)
    }

    fn used(&self, lane: &Lane) -> LaneUse {
        self.used.get(lane).copied().unwrap_or_default()
    }

    fn host_free(&self) -> usize {
        self.host_limit.saturating_sub(self.total_committed)
    }

    /// What to ask the broker for; `None` when no lane can use anything. The lane that comes first changes with each call,
    /// so that all have their turn when there is not enough for all.
    pub(super) fn claim(&mut self, lanes: &[WantingLane]) -> Option<ClaimRequest> {
        let host_free = self.host_free();
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
                wants.push(LaneDemand { lane: want.lane.clone(), free: free + more });
            }
        }
        let asked_ahead = MAX_WAITING.saturating_sub(self.total_waiting) - host_ahead;
        let max = if host_free > 0 { host_free } else { wants.len() } + asked_ahead;
        Some(ClaimRequest { lanes: wants, max })
    }

    /// Deliveries of a lane that can begin at once, and those that may wait for it to go on.
    fn usable(&self, want: &WantingLane, host_free: usize, host_ahead: usize) -> (usize, usize) {
        let WantingLane { lane, limit, ahead } = want;
        let LaneUse { taken, waiting } = self.used(lane);
        let used = taken + waiting;
        let own_free = limit.saturating_sub(used);
        let free = if used == 0 { own_free.min(host_free.max(1)) } else { own_free.min(host_free) };
        let more = (limit + ahead).saturating_sub(used.max(*limit)).min(host_ahead);
        (free, want.worth(more))
    }

    /// Whether anything would be asked for a lane.
    pub(super) fn can_use(&self, want: &WantingLane) -> bool {
        self.usable(want, self.host_free(), MAX_WAITING.saturating_sub(self.total_waiting)) != (0, 0)
    }

    /// How many attempts of this lane may begin, if it has so many slots.
    pub(super) fn free(&self, lane: &Lane, limit: usize) -> usize {
        let taken = self.used(lane).taken;
        let host_free = self.host_limit.saturating_sub(self.total);
        limit.saturating_sub(taken).min(if taken == 0 { host_free.max(1) } else { host_free })
    }

    /// Whether the host's limit keeps lanes from beginning what they have slots for.
    pub(super) fn is_full(&self) -> bool {
        self.host_free() == 0
    }

    /// How many deliveries of this lane wait.
    pub(super) fn waiting(&self, lane: &Lane) -> usize {
        self.used(lane).waiting
    }

    /// A delivery of this lane waits for a slot.
    pub(super) fn wait(&mut self, lane: &Lane) {
        self.total_waiting += 1;
        self.change(lane, |used| used.waiting += 1);
    }

    /// A delivery of this lane does not wait any more.
    pub(super) fn wait_no_more(&mut self, lane: &Lane) {
        if self.used(lane).waiting > 0 {
            self.total_waiting -= 1;
            self.change(lane, |used| used.waiting -= 1);
        }
    }

    /// An attempt of this lane begins.
    pub(super) fn take(&mut self, lane: &Lane) {
        self.total += 1;
        self.change(lane, |used| used.taken += 1);
    }

    /// An attempt of this lane has ended.
    pub(super) fn release(&mut self, lane: &Lane) {
        if self.used(lane).taken > 0 {
            self.total -= 1;
            self.change(lane, |used| used.taken -= 1);
        }
    }

    fn change(&mut self, lane: &Lane, how: impl FnOnce(&mut LaneUse)) {
        let limit = self.limit(lane);
        let used = match self.used.get_mut(lane) {
            Some(used) => used,
            None => self.used.entry(lane.clone()).or_default(),
        };
        self.total_committed -= used.committed(limit);
        how(used);
        self.total_committed += used.committed(limit);
        if *used == LaneUse::default() {
            self.used.remove(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> Lane {
        name.parse().unwrap()
    }

    fn wanted(slots: &mut SlotTable, lanes: &[(Lane, usize)]) -> Vec<(String, usize)> {
        wanted_ahead(slots, lanes, 0)
    }

    fn wanted_ahead(slots: &mut SlotTable, lanes: &[(Lane, usize)], ahead: usize) -> Vec<(String, usize)> {
        let lanes: Vec<WantingLane> = wants(lanes, ahead);
        let mut wants: Vec<_> = slots
            .claim(&lanes)
            .into_iter()
            .flat_map(|claim| claim.lanes)
            .map(|want| (want.lane.to_string(), want.free))
            .collect();
        wants.sort();
        wants
    }

    fn wants(lanes: &[(Lane, usize)], ahead: usize) -> Vec<WantingLane> {
        lanes.iter().map(|(lane, limit)| WantingLane { lane: lane.clone(), limit: *limit, ahead }).collect()
    }

    #[test]
    fn what_is_to_wait_is_asked_for_when_half_of_it_has_begun() {
        let mut slots = SlotTable::new(100);
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
        let mut slots = SlotTable::new(100);
        let lanes: Vec<_> = (0..20).map(|n| (lane(&format!("l{n}")), 1)).collect();
        let claim = slots.claim(&wants(&lanes, MAX_WAITING / 16)).unwrap();
        assert_eq!(claim.lanes.iter().map(|want| want.free).sum::<usize>(), 20 + MAX_WAITING);
        assert!(claim.max <= 100 + MAX_WAITING);
    }

    #[test]
    fn lanes_take_turns_where_not_all_of_them_may_wait() {
        let mut slots = SlotTable::new(100);
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
        let mut slots = SlotTable::new(100);
        let lanes = [(lane("slow"), 2), (lane("quick"), 3)];
        slots.take(&lane("slow"));
        slots.take(&lane("slow"));
        assert_eq!(wanted(&mut slots, &lanes), [("quick".into(), 3)]);
        slots.release(&lane("slow"));
        assert_eq!(wanted(&mut slots, &lanes), [("quick".into(), 3), ("slow".into(), 1)]);
    }

    #[test]
    fn a_lane_of_which_nothing_runs_may_begin_though_the_host_is_full() {
        let mut slots = SlotTable::new(2);
        let lanes = [(lane("a"), 2), (lane("b"), 2)];
        slots.take(&lane("a"));
        slots.take(&lane("a"));
        assert_eq!(wanted(&mut slots, &lanes), [("b".into(), 1)]);
        slots.take(&lane("b"));
        assert_eq!(wanted(&mut slots, &lanes), []);
        assert_eq!(slots.total, 3);
    }

    #[test]
    fn what_waits_behind_its_own_lanes_slots_takes_none_from_others() {
        let mut slots = SlotTable::new(10);
        let lanes = [(lane("quick"), 4), (lane("slow"), 4)];
        slots.set_limits(lanes.iter().cloned().collect());
        (0..500).for_each(|_| slots.wait(&lane("quick")));
        slots.take(&lane("slow"));
        assert_eq!(wanted(&mut slots, &lanes), [("slow".into(), 3)], "four of the ten are for those that wait");
        (0..3).for_each(|_| slots.take(&lane("quick")));
        assert_eq!(slots.total_committed, 5);
        assert!(!slots.is_full());
        slots.set_limits(HashMap::new());
        assert!(slots.is_full(), "a lane that nobody serves begins all of it");
        (0..500).for_each(|_| slots.wait_no_more(&lane("quick")));
        (0..3).for_each(|_| slots.release(&lane("quick")));
        slots.release(&lane("slow"));
        assert_eq!((slots.total_committed, slots.total_waiting, slots.total, slots.used.len()), (0, 0, 0, 0));
    }

    #[test]
    fn every_lane_comes_first_in_its_turn() {
        let mut slots = SlotTable::new(10);
        let lanes = [(lane("a"), 1), (lane("b"), 1), (lane("c"), 1)];
        let mut firsts: Vec<_> = (0..3).map(|_| slots.claim(&wants(&lanes, 0)).unwrap().lanes.remove(0).lane).collect();
        firsts.sort();
        assert_eq!(firsts, [lane("a"), lane("b"), lane("c")]);
    }

    #[test]
    fn releasing_what_was_not_taken_changes_nothing() {
        let mut slots = SlotTable::new(1);
        slots.release(&lane("a"));
        assert_eq!(slots.total, 0);
    }
}
