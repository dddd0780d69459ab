//! How many idempotency keys the lanes may have (G8, G12).
//!
//! Half of what a store may keep is divided evenly between the lanes: each has that part to itself. The other half goes to
//! lanes that need more. So no lane takes the part of another, and all of them together stay within the limit. Beyond it a new
//! key is refused, and no earlier one goes before its time (G6). `append.lua`
//! follows the same rule.

use std::collections::BTreeMap;

use super::Lane;

/// Finds a lane that may not have as many keys more as are `wanted` for it.
///
/// `kept` is how many keys each lane has, and `most` how many the store may keep. `None` if all may have theirs.
pub(super) fn find_lane_beyond_share<'l>(
    most: u64,
    kept: impl IntoIterator<Item = (&'l Lane, u64)>,
    wanted: &BTreeMap<&'l Lane, u64>,
) -> Option<&'l Lane> {
    let mut after: BTreeMap<&Lane, u64> = kept.into_iter().collect();
    for (lane, more) in wanted {
        let keys = after.entry(lane).or_default();
        *keys = keys.saturating_add(*more);
    }
    let lanes = after.len() as u64;
    let own = most / 2 / lanes.max(1);
    let common = most - own * lanes;
    let beyond = after.values().fold(0_u64, |sum, keys| sum.saturating_add(keys.saturating_sub(own)));
    if beyond <= common {
        return None;
    }
    // Another lane may be the one that has too many. Whoever stays within its own part is not refused for that.
    wanted.keys().find(|lane| after[*lane] > own).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> Lane {
        name.parse().unwrap()
    }

    fn refused(most: u64, kept: &[(&str, u64)], wanted: &[(&str, u64)]) -> Option<String> {
        let kept: Vec<(Lane, u64)> = kept.iter().map(|(name, keys)| (lane(name), *keys)).collect();
        let wanted: Vec<(Lane, u64)> = wanted.iter().map(|(name, keys)| (lane(name), *keys)).collect();
        let wanted = wanted.iter().map(|(lane, keys)| (lane, *keys)).collect();
        let kept = kept.iter().map(|(lane, keys)| (lane, *keys)).collect::<Vec<_>>();
        find_lane_beyond_share(most, kept, &wanted).map(Lane::to_string)
    }

    #[test]
    fn a_lane_takes_its_own_part_and_the_common_half_and_no_more() {
        let both = |a, b| [("a", a), ("b", b)];
        assert_eq!(refused(100, &both(0, 0), &[("a", 75)]), None);
        assert_eq!(refused(100, &both(0, 0), &[("a", 76)]), Some("a".into()));
        assert_eq!(refused(100, &both(75, 0), &[("a", 1)]), Some("a".into()));
        assert_eq!(refused(100, &both(75, 0), &[("b", 25)]), None, "its part is kept for it");
        assert_eq!(refused(100, &both(75, 0), &[("b", 26)]), Some("b".into()));
        assert_eq!(refused(100, &both(75, 0), &[("a", 1), ("b", 1)]), Some("a".into()));
        assert_eq!(refused(100, &both(60, 30), &[("b", 10)]), None);
        assert_eq!(refused(100, &both(60, 30), &[("b", 11)]), Some("b".into()));
    }

    #[test]
    fn what_a_lane_has_beyond_the_limit_takes_no_part_of_another() {
        assert_eq!(refused(100, &[("a", 10_000)], &[("b", 25)]), None, "a lane that is new counts as one");
        assert_eq!(refused(100, &[("a", 10_000)], &[("b", 26)]), Some("b".into()));
        assert_eq!(refused(0, &[], &[("a", 1)]), Some("a".into()));
    }
}
