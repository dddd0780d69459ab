//! How many attempts of each lane may begin: pure accounting.
//!
//! Every lane has its own slots, so a slow plugin does not delay the others (contract, G8). The limit of the host is far
//! above the limit of one lane and only bounds memory. Even at that limit, a lane with no running attempt may begin one.
//! The sandbox keeps a reserve for these.

use std::collections::HashMap;

use crate::broker::{ClaimRequest, Lane, LaneDemand};

/// How many deliveries of all lanes may be claimed before there is a slot for them.
const MAX_WAITING: usize = 2_048;

/// The taken slots, and the deliveries that wait for one.
#[derive(Debug, Default)]
pub(super) struct SlotTable {
    host_limit: usize,
    limits: HashMap<Lane, usize>,
    used: HashMap<Lane, LaneUse>,
    total: usize,
    total_waiting: usize,
    /// Running attempts, and deliveries that get the next slots of their lanes. Deliveries queued beyond a lane's limit do
    /// not count against the host's limit.
    total_committed: usize,
    turn: usize,
}

/// What a lane uses on this host.
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

/// A lane that may begin attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantingLane {
    /// The lane.
    pub(super) lane: Lane,
    /// The number of its slots.
    pub(super) limit: usize,
    /// How many of its deliveries may wait for a slot.
    pub(super) ahead: usize,
}

impl WantingLane {
    /// A lane with `limit` slots, for which `ahead` deliveries may wait.
    pub(super) fn new(lane: &Lane, limit: usize, ahead: usize) -> Self {
        Self { lane: lane.clone(), limit, ahead }
    }

    /// `more` if it is at least half of what may wait, else 0. So deliveries that only wait are not claimed one by one.
    fn worth_claiming(&self, more: usize) -> usize {
        if more * 2 >= self.ahead { more } else { 0 }
    }
}

impl SlotTable {
    /// A table in which all slots are free.
    pub(super) fn new(host_limit: usize) -> Self {
        Self { host_limit, ..Self::default() }
    }

    /// Sets the number of slots of each lane.
    pub(super) fn set_limits(&mut self, limits: HashMap<Lane, usize>) {
        self.limits = limits;
        self.total_committed = self.used.iter().map(|(lane, used)| used.committed(self.limit(lane))).sum();
    }

    /// A lane that is no longer served has no limit, so that all its deliveries begin.
    fn limit(&self, lane: &Lane) -> usize {
        self.limits.get(lane).copied().unwrap_or(usize::MAX)
    }

    fn used(&self, lane: &Lane) -> LaneUse {
        self.used.get(lane).copied().unwrap_or_default()
    }

    fn host_free(&self) -> usize {
        self.host_limit.saturating_sub(self.total_committed)
    }

    /// The next claim; `None` when no lane can use a delivery. The first lane changes with each call, so that all lanes
    /// have their turn when there is not enough for all.
    pub(super) fn plan_claim(&mut self, lanes: &[WantingLane]) -> Option<ClaimRequest> {
        let host_free = self.host_free();
        let mut host_ahead = MAX_WAITING.saturating_sub(self.total_waiting);
        let usable = |wanting| {
            Some((wanting, self.usable(wanting, host_free, host_ahead))).filter(|(_, usable)| *usable != (0, 0))
        };
        let mut usable: Vec<_> = lanes.iter().filter_map(usable).collect();
        if usable.is_empty() {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % usable.len();
        usable.rotate_left(first);
        let mut demands = Vec::with_capacity(usable.len());
        for (wanting, (free, more)) in usable {
            let more = wanting.worth_claiming(more.min(host_ahead));
            host_ahead -= more;
            if free + more > 0 {
                demands.push(LaneDemand { lane: wanting.lane.clone(), free: free + more });
            }
        }
        let asked_ahead = MAX_WAITING.saturating_sub(self.total_waiting) - host_ahead;
        let max = if host_free > 0 { host_free } else { demands.len() } + asked_ahead;
        Some(ClaimRequest { lanes: demands, max })
    }

    /// How many deliveries of a lane can begin at once, and how many more may wait.
    fn usable(&self, wanting: &WantingLane, host_free: usize, host_ahead: usize) -> (usize, usize) {
        let WantingLane { lane, limit, ahead } = wanting;
        let LaneUse { taken, waiting } = self.used(lane);
        let used = taken + waiting;
        let own_free = limit.saturating_sub(used);
        let free = if used == 0 { own_free.min(host_free.max(1)) } else { own_free.min(host_free) };
        let more = (limit + ahead).saturating_sub(used.max(*limit)).min(host_ahead);
        (free, wanting.worth_claiming(more))
    }

    /// Whether a claim would ask for deliveries of a lane.
    pub(super) fn can_use(&self, wanting: &WantingLane) -> bool {
        self.usable(wanting, self.host_free(), MAX_WAITING.saturating_sub(self.total_waiting)) != (0, 0)
    }

    /// How many attempts of this lane may begin, if it has `limit` slots.
    pub(super) fn free(&self, lane: &Lane, limit: usize) -> usize {
        let taken = self.used(lane).taken;
        let host_free = self.host_limit.saturating_sub(self.total);
        limit.saturating_sub(taken).min(if taken == 0 { host_free.max(1) } else { host_free })
    }

    /// Whether the host's limit is reached, so that lanes cannot use their free slots.
    pub(super) fn is_full(&self) -> bool {
        self.host_free() == 0
    }

    /// How many deliveries of this lane wait.
    pub(super) fn waiting(&self, lane: &Lane) -> usize {
        self.used(lane).waiting
    }

    /// Counts a delivery that waits for a slot of this lane.
    pub(super) fn add_waiting(&mut self, lane: &Lane) {
        self.total_waiting += 1;
        self.change(lane, |used| used.waiting += 1);
    }

    /// Counts a delivery of this lane that no longer waits.
    pub(super) fn remove_waiting(&mut self, lane: &Lane) {
        if self.used(lane).waiting > 0 {
            self.total_waiting -= 1;
            self.change(lane, |used| used.waiting -= 1);
        }
    }

    /// Takes a slot of this lane for an attempt.
    pub(super) fn take(&mut self, lane: &Lane) {
        self.total += 1;
        self.change(lane, |used| used.taken += 1);
    }

    /// Frees the slot of an attempt that ended.
    pub(super) fn release(&mut self, lane: &Lane) {
        if self.used(lane).taken > 0 {
            self.total -= 1;
            self.change(lane, |used| used.taken -= 1);
        }
    }

    fn change(&mut self, lane: &Lane, edit: impl FnOnce(&mut LaneUse)) {
        let limit = self.limit(lane);
        let used = match self.used.get_mut(lane) {
            Some(used) => used,
            None => self.used.entry(lane.clone()).or_default(),
        };
        self.total_committed -= used.committed(limit);
        edit(used);
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

    fn claimed(slots: &mut SlotTable, lanes: &[(Lane, usize)]) -> Vec<(String, usize)> {
        claimed_ahead(slots, lanes, 0)
    }

    fn claimed_ahead(slots: &mut SlotTable, lanes: &[(Lane, usize)], ahead: usize) -> Vec<(String, usize)> {
        let mut demands: Vec<_> = slots
            .plan_claim(&wanting(lanes, ahead))
            .into_iter()
            .flat_map(|claim| claim.lanes)
            .map(|demand| (demand.lane.to_string(), demand.free))
            .collect();
        demands.sort();
        demands
    }

    fn wanting(lanes: &[(Lane, usize)], ahead: usize) -> Vec<WantingLane> {
        lanes.iter().map(|(lane, limit)| WantingLane { lane: lane.clone(), limit: *limit, ahead }).collect()
    }

    #[test]
    fn deliveries_are_claimed_ahead_when_half_of_the_last_ones_have_begun() {
        let mut slots = SlotTable::new(100);
        let lanes = [(lane("a"), 2)];
        assert_eq!(claimed_ahead(&mut slots, &lanes, 10), [("a".into(), 12)]);
        slots.take(&lane("a"));
        slots.take(&lane("a"));
        (0..10).for_each(|_| slots.add_waiting(&lane("a")));
        for left in (6..10).rev() {
            slots.remove_waiting(&lane("a"));
            assert_eq!(claimed_ahead(&mut slots, &lanes, 10), [], "{left} wait");
        }
        slots.remove_waiting(&lane("a"));
        assert_eq!(claimed_ahead(&mut slots, &lanes, 10), [("a".into(), 5)]);
        assert_eq!(claimed_ahead(&mut slots, &lanes, 0), [], "waiting deliveries get the next slots");
    }

    #[test]
    fn no_more_deliveries_wait_than_the_limit_allows() {
        let mut slots = SlotTable::new(100);
        let lanes: Vec<_> = (0..20).map(|n| (lane(&format!("l{n}")), 1)).collect();
        let claim = slots.plan_claim(&wanting(&lanes, MAX_WAITING / 16)).unwrap();
        assert_eq!(claim.lanes.iter().map(|want| want.free).sum::<usize>(), 20 + MAX_WAITING);
        assert!(claim.max <= 100 + MAX_WAITING);
    }

    #[test]
    fn lanes_take_turns_when_not_all_may_claim_ahead() {
        let mut slots = SlotTable::new(100);
        let lanes: Vec<_> = (0..3).map(|n| (lane(&format!("l{n}")), 1)).collect();
        let mut ahead = || {
            let mut claimed = claimed_ahead(&mut slots, &lanes, MAX_WAITING / 2);
            claimed.retain(|(_, free)| *free > 1);
            claimed.into_iter().map(|(lane, _)| lane).collect::<Vec<_>>()
        };
        let mut turns: Vec<_> = (0..3).map(|_| ahead()).collect();
        turns.sort();
        assert_eq!(turns, [["l0", "l1"], ["l0", "l2"], ["l1", "l2"]]);
    }

    #[test]
    fn a_full_lane_takes_no_slots_from_others() {
        let mut slots = SlotTable::new(100);
        let lanes = [(lane("slow"), 2), (lane("quick"), 3)];
        slots.take(&lane("slow"));
        slots.take(&lane("slow"));
        assert_eq!(claimed(&mut slots, &lanes), [("quick".into(), 3)]);
        slots.release(&lane("slow"));
        assert_eq!(claimed(&mut slots, &lanes), [("quick".into(), 3), ("slow".into(), 1)]);
    }

    #[test]
    fn a_lane_with_no_running_attempt_may_begin_one_on_a_full_host() {
        let mut slots = SlotTable::new(2);
        let lanes = [(lane("a"), 2), (lane("b"), 2)];
        slots.take(&lane("a"));
        slots.take(&lane("a"));
        assert_eq!(claimed(&mut slots, &lanes), [("b".into(), 1)]);
        slots.take(&lane("b"));
        assert_eq!(claimed(&mut slots, &lanes), []);
        assert_eq!(slots.total, 3);
    }

    #[test]
    fn deliveries_beyond_their_lanes_limit_take_no_slots_from_others() {
        let mut slots = SlotTable::new(10);
        let lanes = [(lane("quick"), 4), (lane("slow"), 4)];
        slots.set_limits(lanes.iter().cloned().collect());
        (0..500).for_each(|_| slots.add_waiting(&lane("quick")));
        slots.take(&lane("slow"));
        assert_eq!(
            claimed(&mut slots, &lanes),
            [("slow".into(), 3)],
            "four of the ten are reserved for waiting deliveries"
        );
        (0..3).for_each(|_| slots.take(&lane("quick")));
        assert_eq!(slots.total_committed, 5);
        assert!(!slots.is_full());
        slots.set_limits(HashMap::new());
        assert!(slots.is_full(), "a lane that is no longer served begins all its deliveries");
        (0..500).for_each(|_| slots.remove_waiting(&lane("quick")));
        (0..3).for_each(|_| slots.release(&lane("quick")));
        slots.release(&lane("slow"));
        assert_eq!((slots.total_committed, slots.total_waiting, slots.total, slots.used.len()), (0, 0, 0, 0));
    }

    #[test]
    fn every_lane_comes_first_in_turn() {
        let mut slots = SlotTable::new(10);
        let lanes = [(lane("a"), 1), (lane("b"), 1), (lane("c"), 1)];
        let mut firsts: Vec<_> =
            (0..3).map(|_| slots.plan_claim(&wanting(&lanes, 0)).unwrap().lanes.remove(0).lane).collect();
        firsts.sort();
        assert_eq!(firsts, [lane("a"), lane("b"), lane("c")]);
    }

    #[test]
    fn releasing_a_free_slot_changes_nothing() {
        let mut slots = SlotTable::new(1);
        slots.release(&lane("a"));
        assert_eq!(slots.total, 0);
    }
}
