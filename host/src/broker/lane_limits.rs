//! How many events may wait, in all and in one lane (G8, G12).
//!
//! Events beyond a lane's own limit do not count towards the total. A lane that holds few events accepts more even
//! when the total is reached. So backlogs of some plugins do not make the store refuse the events of others.

use std::collections::BTreeMap;

use super::options::LANE_SHARE;
use super::{Error, Lane};

/// A lane that holds at most a tenth of its limit, or of the usual one, accepts events whatever the total is.
const SMALL_LANE_SHARE: u64 = 10;

/// The limits of waiting events in a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    all: u64,
    each: u64,
    own: BTreeMap<Lane, u64>,
}

impl LaneLimits {
    /// `max_waiting` events in all, and a fifth of them in each lane that has no limit of its `own`.
    pub fn new(max_waiting: u64, own: BTreeMap<Lane, u64>) -> Self {
        Self { all: max_waiting, each: max_waiting.div_ceil(LANE_SHARE).max(1), own }
    }

    /// How many events may wait in all.
    pub fn all(&self) -> u64 {
        self.all
    }

    /// How many events may wait in a lane without a limit of its own.
    pub fn each(&self) -> u64 {
        self.each
    }

    /// The lanes that have a limit of their own.
    pub fn own(&self) -> &BTreeMap<Lane, u64> {
        &self.own
    }

    /// How many events may wait in a lane.
    pub fn of(&self, lane: &Lane) -> u64 {
        self.own.get(lane).copied().unwrap_or(self.each)
    }

    /// Checks whether a request may add `wanted` events to each of these lanes.
    ///
    /// `waiting_of` is the number of events that wait in a lane and `waiting` the number in all. `counted` is the
    /// number in all if no lane counts for more than its limit.
    ///
    /// # Errors
    /// [`Error::LaneFull`] if a lane would exceed its limit, else [`Error::Full`] if the total would exceed its own.
    pub fn check(
        &self,
        wanted: &BTreeMap<&Lane, u64>,
        waiting_of: impl Fn(&Lane) -> u64,
        waiting: u64,
        counted: impl FnOnce() -> u64,
    ) -> Result<(), Error> {
        for (lane, more) in wanted {
            let (waiting, limit) = (waiting_of(lane), self.of(lane));
            if waiting.saturating_add(*more) > limit {
                return Err(Error::LaneFull { lane: (*lane).clone(), waiting, limit });
            }
        }
        let more = wanted.values().sum::<u64>();
        let are_small = || {
            wanted.iter().all(|(lane, more)| {
                waiting_of(lane).saturating_add(*more) <= self.of(lane).min(self.each) / SMALL_LANE_SHARE
            })
        };
        // `counted` is never more than `waiting`, so most calls need not compute it.
        if waiting.saturating_add(more) > self.all && counted().saturating_add(more) > self.all && !are_small() {
            return Err(Error::Full { waiting, limit: self.all });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> Lane {
        name.parse().unwrap()
    }

    /// Whether one more of `name` may wait where so many do.
    fn one_more(limits: &LaneLimits, name: &str, waiting: &[(&str, u64)]) -> Result<(), Error> {
        let held: BTreeMap<Lane, u64> = waiting.iter().map(|(name, n)| (lane(name), *n)).collect();
        let name = lane(name);
        let counted = || held.iter().map(|(lane, n)| (*n).min(limits.of(lane))).sum();
        let waiting_of = |lane: &Lane| held.get(lane).copied().unwrap_or(0);
        limits.check(&BTreeMap::from([(&name, 1)]), waiting_of, held.values().sum(), counted)
    }

    #[test]
    fn a_lane_that_is_full_refuses_its_own_and_says_by_which_setting() {
        let limits = LaneLimits::new(100, BTreeMap::from([(lane("own"), 50)]));
        let held = [("a", 20), ("own", 49)];
        let full = one_more(&limits, "a", &held).unwrap_err();
        assert_eq!(full, Error::LaneFull { lane: lane("a"), waiting: 20, limit: 20 });
        assert!(full.to_string().contains("plugins.a.max_waiting"), "{full}");
        assert_eq!(one_more(&limits, "own", &held), Ok(()));
        assert_eq!(one_more(&limits, "b", &held), Ok(()));
        let unrouted = one_more(&limits, "_", &[("_", 20)]).unwrap_err().to_string();
        assert!(unrouted.contains("no plugin handles") && unrouted.contains("broker.max_waiting"), "{unrouted}");
    }

    #[test]
    fn what_a_lane_holds_beyond_its_limit_does_not_count_for_the_others() {
        let limits = LaneLimits::new(100, BTreeMap::new());
        assert_eq!(one_more(&limits, "b", &[("a", 10_000), ("b", 19)]), Ok(()));
    }

    #[test]
    fn where_the_sum_is_reached_only_those_are_small_that_hold_little() {
        let limits = LaneLimits::new(100, BTreeMap::from([(lane("f"), 60)]));
        let held = ["a", "b", "c", "d", "e"].map(|name| (name, 20));
        assert_eq!(one_more(&limits, "f", &held), Ok(()));
        let more: Vec<_> = held.into_iter().chain([("f", 6)]).collect();
        assert_eq!(one_more(&limits, "f", &more), Err(Error::Full { waiting: 106, limit: 100 }));
        assert_eq!(one_more(&limits, "g", &more), Ok(()));
    }
}
