//! How many events may wait: in all, and for one plugin, so that the backlog of one refuses nobody else's (G8, G12).
//!
//! What a lane holds beyond its own limit does not count for the sum, and a lane that holds little is let in although
//! the sum is reached. So neither one backlog nor several at their limits use up what is there for the others.

use std::collections::BTreeMap;

use super::{Error, Lane};

/// The part of the limit for all that one plugin has unless its settings say otherwise: one in so many.
const PLUGIN_PART: u64 = 5;
/// A lane that holds no more than one in so many of its limit, or of the usual one, is let in whatever the sum is.
const LET_IN_PART: u64 = 10;

/// The limits of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    all: u64,
    each: u64,
    own: BTreeMap<Lane, u64>,
}

impl LaneLimits {
    /// `max_waiting` events in all, a fifth of them for one lane, but for those with a limit of their own.
    pub fn new(max_waiting: u64, own: BTreeMap<Lane, u64>) -> Self {
        Self { all: max_waiting, each: max_waiting.div_ceil(PLUGIN_PART).max(1), own }
    }

    /// How many events may wait in all.
    pub fn all(&self) -> u64 {
        self.all
    }

    /// How many events of a lane may wait that has no limit of its own.
    pub fn each(&self) -> u64 {
        self.each
    }

    /// The limits of lanes that have one of their own.
    pub fn own(&self) -> &BTreeMap<Lane, u64> {
        &self.own
    }

    /// How many events of a lane may wait.
    pub fn of(&self, lane: &Lane) -> u64 {
        self.own.get(lane).copied().unwrap_or(self.each)
    }

    /// Whether a request may add so many events to each of these lanes. `waiting_of` tells how many wait in a lane,
    /// `waiting` how many do in all, and `counted` how many do when no lane counts for more than it may have.
    ///
    /// # Errors
    /// [`Error::LaneFull`] if one of the lanes may not have so many, else [`Error::Full`] if all together may not.
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
        let are_let_in = || {
            wanted.iter().all(|(lane, more)| {
                waiting_of(lane).saturating_add(*more) <= self.of(lane).min(self.each) / LET_IN_PART
            })
        };
        // What counts is never more than what waits.
        if waiting.saturating_add(more) > self.all && counted().saturating_add(more) > self.all && !are_let_in() {
            return Err(Error::Full { waiting, limit: self.all });
        }
        Ok(())
    }
}

/// The words for a lane that is full, with the setting that says so.
pub(super) fn lane_full(lane: &Lane, waiting: u64, limit: u64) -> String {
    if *lane == Lane::unrouted() {
        return format!(
            "{waiting} events wait whose types no plugin handles, and no more than {limit} may (one in {PLUGIN_PART} \
             of broker.max_waiting): put a plugin for them into the directory, or send fewer"
        );
    }
    format!("{waiting} events wait for the plugin {lane}, and no more than {limit} may (plugins.{lane}.max_waiting)")
}

/// The words for a lane whose events take too much.
pub(super) fn lane_heavy(lane: &Lane, waiting_bytes: u64, limit_bytes: u64) -> String {
    let what = if *lane == Lane::unrouted() {
        "the events that no plugin handles".to_owned()
    } else {
        format!("the events that wait for the plugin {lane}")
    };
    format!(
        "{what} take {waiting_bytes} bytes, and no more than {limit_bytes} may (broker.max_waiting_bytes, or an eighth of \
         the room of the store)"
    )
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
    fn where_the_sum_is_reached_only_those_are_let_in_that_hold_little() {
        let limits = LaneLimits::new(100, BTreeMap::from([(lane("f"), 60)]));
        let held = ["a", "b", "c", "d", "e"].map(|name| (name, 20));
        assert_eq!(one_more(&limits, "f", &held), Ok(()));
        let more: Vec<_> = held.into_iter().chain([("f", 6)]).collect();
        assert_eq!(one_more(&limits, "f", &more), Err(Error::Full { waiting: 106, limit: 100 }));
        assert_eq!(one_more(&limits, "g", &more), Ok(()));
    }
}
