//! Coverage: which lanes each consumer of a store serves, and which event types it handles there.
//!
//! Consumers announce their coverage to each other. So a host leaves events alone that it cannot handle and a peer can.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::Lane;
use crate::event::{EventType, TypePattern};

/// The most patterns that one consumer announces, so that a heartbeat stays small (G12).
const MAX_PATTERNS: usize = 10_000;

/// The lanes that one consumer serves, each with the patterns of the types that it handles there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerCoverage {
    lanes: BTreeMap<Lane, BTreeSet<TypePattern>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_starting: bool,
}

impl ConsumerCoverage {
    /// Takes lanes with their patterns, and leaves out patterns beyond 10,000 in all. A consumer that `is_starting` may
    /// serve more in a moment.
    pub fn new(lanes: impl IntoIterator<Item = (Lane, Vec<TypePattern>)>, is_starting: bool) -> Self {
        let (mut served, mut left) = (BTreeMap::<Lane, BTreeSet<TypePattern>>::new(), MAX_PATTERNS);
        for (lane, patterns) in lanes {
            let patterns: Vec<TypePattern> = patterns.into_iter().take(left).collect();
            left -= patterns.len();
            served.entry(lane).or_default().extend(patterns);
        }
        Self { lanes: served, is_starting }
    }

    /// Whether the consumer serves this lane.
    pub fn has_lane(&self, lane: &Lane) -> bool {
        self.lanes.contains_key(lane)
    }

    /// Whether the consumer may serve more in a moment.
    pub fn is_starting(&self) -> bool {
        self.is_starting
    }

    /// The lanes, each with the patterns of the types that the consumer handles there.
    pub fn lanes(&self) -> impl Iterator<Item = (&Lane, &BTreeSet<TypePattern>)> {
        self.lanes.iter()
    }

    fn add(&mut self, other: &Self) {
        for (lane, patterns) in &other.lanes {
            self.lanes.entry(lane.clone()).or_default().extend(patterns.iter().cloned());
        }
    }
}

/// What the other consumers of a store serve together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCoverage {
    served: ConsumerCoverage,
    exact: HashMap<EventType, Lane>,
    /// Prefixes, the longest first.
    below: Vec<(String, Lane)>,
    any: Option<Lane>,
    some_are_silent: bool,
}

impl PeerCoverage {
    /// Combines the coverage of these consumers. `some_are_silent` if there are others that have not announced theirs:
    /// they are starting, or their version does not announce it.
    pub fn combine<'s>(consumers: impl IntoIterator<Item = &'s ConsumerCoverage>, some_are_silent: bool) -> Self {
        let mut all = Self { some_are_silent, ..Self::default() };
        consumers.into_iter().for_each(|served| all.served.add(served));
        for (lane, patterns) in &all.served.lanes {
            for pattern in patterns {
                // If two lanes have the same pattern the first by name wins, as among the plugins of one host.
                match pattern {
                    TypePattern::Exact(event_type) => {
                        all.exact.entry(event_type.clone()).or_insert_with(|| lane.clone());
                    }
                    TypePattern::Below(prefix) => all.below.push((prefix.clone(), lane.clone())),
                    TypePattern::Any => {
                        all.any.get_or_insert_with(|| lane.clone());
                    }
                }
            }
        }
        all.below.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all
    }

    /// The lane in which another consumer handles this type, by the most specific pattern; `None` if none does.
    pub fn lane_of(&self, event_type: &EventType) -> Option<&Lane> {
        let below = || {
            let found = self.below.iter().find(|(prefix, _)| event_type.as_str().starts_with(prefix.as_str()));
            found.map(|(_, lane)| lane)
        };
        self.exact.get(event_type).or_else(below).or(self.any.as_ref())
    }

    /// The lanes that they serve.
    pub fn served(&self) -> &ConsumerCoverage {
        &self.served
    }

    /// Whether some consumers have not announced what they serve.
    pub fn some_are_silent(&self) -> bool {
        self.some_are_silent
    }

    /// Whether a peer handles something that none handled `before`.
    pub fn has_more_than(&self, before: &Self) -> bool {
        self.served.lanes.iter().any(|(lane, patterns)| {
            let known = before.served.lanes.get(lane);
            patterns.iter().any(|pattern| known.is_none_or(|known| !known.contains(pattern)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(lanes: &[(&str, &[&str])]) -> ConsumerCoverage {
        let lane = |(lane, patterns): &(&str, &[&str])| {
            (lane.parse().unwrap(), patterns.iter().map(|it| it.parse().unwrap()).collect())
        };
        ConsumerCoverage::new(lanes.iter().map(lane), false)
    }

    fn lane_of(elsewhere: &PeerCoverage, event_type: &str) -> Option<String> {
        elsewhere.lane_of(&event_type.parse().unwrap()).map(ToString::to_string)
    }

    #[test]
    fn the_most_specific_pattern_of_all_consumers_names_the_lane() {
        let one = served(&[("orders", &["order.*"]), ("rest", &["*"])]);
        let other = served(&[("paid", &["order.paid", "order.paid.*"]), ("orders", &["refund"])]);
        let all = PeerCoverage::combine([&one, &other], false);
        for (event_type, lane) in [
            ("order.paid", "paid"),
            ("order.paid.late", "paid"),
            ("order.sent", "orders"),
            ("refund", "orders"),
            ("x", "rest"),
        ] {
            assert_eq!(lane_of(&all, event_type).as_deref(), Some(lane), "{event_type}");
        }
        let few = PeerCoverage::combine([&other], false);
        assert_eq!(lane_of(&few, "order.sent"), None);
        assert!(few.served().has_lane(&"paid".parse().unwrap()) && !few.served().has_lane(&"rest".parse().unwrap()));
        assert!(all.has_more_than(&few) && !few.has_more_than(&all) && !all.has_more_than(&all));
        assert_eq!(lane_of(&PeerCoverage::default(), "x"), None);
    }

    #[test]
    fn coverage_is_written_as_lanes_with_patterns_and_read_again() {
        let served = served(&[("orders", &["order.*", "refund"]), ("rest", &["*"])]);
        let text = serde_json::to_string(&served).unwrap();
        assert_eq!(text, r#"{"lanes":{"orders":["refund","order.*"],"rest":["*"]}}"#);
        assert_eq!(serde_json::from_str::<ConsumerCoverage>(&text).unwrap(), served);
        let starting = ConsumerCoverage::new([], true);
        assert_eq!(serde_json::to_string(&starting).unwrap(), r#"{"lanes":{},"is_starting":true}"#);
        for foreign in ["", "7", "{}", r#"{"lanes":{"_x y":["a"]}}"#, r#"{"lanes":{"a":["b c"]}}"#] {
            assert!(serde_json::from_str::<ConsumerCoverage>(foreign).is_err(), "{foreign}");
        }
    }

    #[test]
    fn a_consumer_announces_no_more_patterns_than_are_allowed() {
        let many = (0..MAX_PATTERNS + 5).map(|n| format!("t{n}").parse().unwrap()).collect();
        let served = ConsumerCoverage::new(
            [("a".parse().unwrap(), many), ("b".parse().unwrap(), vec![TypePattern::Any])],
            false,
        );
        let patterns: usize = served.lanes().map(|(_, patterns)| patterns.len()).sum();
        assert_eq!(patterns, MAX_PATTERNS);
    }
}
