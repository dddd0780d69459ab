//! How lanes share what a consumer claims or takes over: one rule for both brokers, as pure functions.

use std::collections::BTreeMap;

/// Shares `max` deliveries out over lanes that can each take `demands[n]` of them.
///
/// Every lane gets the same number. A lane that can take fewer leaves the rest to the others. What cannot be divided
/// goes, one each, to the first of the lanes that can take more; so the order of the lanes decides who comes first.
pub(super) fn fair_shares(demands: &[usize], max: usize) -> Vec<usize> {
    let mut by_demand: Vec<usize> = (0..demands.len()).collect();
    by_demand.sort_by_key(|&lane| demands[lane]);
    let (mut shares, mut left) = (demands.to_vec(), max);
    for (n_done, &lane) in by_demand.iter().enumerate() {
        let n_open = demands.len() - n_done;
        let level = left / n_open;
        if demands[lane] > level {
            let mut extra = left % n_open;
            for (share, demand) in shares.iter_mut().zip(demands).filter(|(_, demand)| **demand > level) {
                *share = level + usize::from(extra > 0);
                extra = extra.saturating_sub(1);
                debug_assert!(*share <= *demand);
            }
            break;
        }
        left -= demands[lane];
    }
    shares
}

/// Orders deliveries by their delivery count, the fewest first.
///
/// Among equal counts the lanes take turns, beginning behind `last`, so that no lane delays the others. Within a lane
/// the order stays. `count_and_lane` gives both of an item.
pub(super) fn takeover_order<T, L: Ord + Clone>(
    items: Vec<T>,
    last: Option<&L>,
    count_and_lane: impl Fn(&T) -> (u32, L),
) -> Vec<T> {
    let mut rounds: BTreeMap<(u32, L), usize> = BTreeMap::new();
    let mut ranked: Vec<_> = items
        .into_iter()
        .map(|item| {
            let (count, lane) = count_and_lane(&item);
            let round = rounds.entry((count, lane.clone())).or_default();
            *round += 1;
            let comes_later = last.is_some_and(|last| lane <= *last);
            ((count, *round, comes_later, lane), item)
        })
        .collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_shared_evenly_and_the_remainder_goes_to_the_first_lanes() {
        for (demands, max, expected) in [
            (&[10, 10][..], 4, &[2, 2][..]),
            (&[1, 10], 4, &[1, 3]),
            (&[10, 1, 10], 6, &[3, 1, 2]),
            (&[5, 5, 5], 2, &[1, 1, 0]),
            (&[2, 3], 100, &[2, 3]),
            (&[0, 7], 3, &[0, 3]),
            (&[3], 0, &[0]),
            (&[], 3, &[]),
            (&[1_028, 4], 500, &[496, 4]),
            (&[4, 4], 500, &[4, 4]),
            (&[400, 10, 400], 300, &[145, 10, 145]),
            (&[9, 9, 9], 3, &[1, 1, 1]),
            (&[7, 3, 5, 4], 14, &[4, 3, 4, 3]),
        ] {
            assert_eq!(fair_shares(demands, max), expected, "{demands:?} for {max}");
        }
    }

    #[test]
    fn a_share_never_exceeds_its_demand_and_nothing_is_left_that_a_lane_could_take() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let demands: Vec<usize> = (0..random.usize(..9)).map(|_| random.usize(..12)).collect();
            let max = random.usize(..60);
            let shares = fair_shares(&demands, max);
            assert!(shares.iter().zip(&demands).all(|(share, demand)| share <= demand), "{demands:?} for {max}");
            assert_eq!(shares.iter().sum::<usize>(), max.min(demands.iter().sum()), "{demands:?} for {max}");
            let unmet = shares.iter().zip(&demands).filter(|(share, demand)| share < demand).map(|(share, _)| *share);
            let least = unmet.min().unwrap_or(usize::MAX);
            assert!(shares.iter().all(|share| *share <= least.saturating_add(1)), "{demands:?} for {max}");
        }
    }

    #[test]
    fn the_fewest_come_first_and_lanes_take_turns_behind_the_last() {
        let ordered = |items: &[(u32, char, u32)], last: Option<char>| -> String {
            let items = takeover_order(items.to_vec(), last.as_ref(), |(count, lane, _)| (*count, *lane));
            items.iter().map(|(count, lane, number)| format!("{lane}{count}{number} ")).collect()
        };
        let items =
            [(2, 'b', 1), (1, 'a', 2), (1, 'a', 3), (1, 'a', 4), (1, 'b', 5), (1, 'c', 6), (1, 'c', 7), (2, 'a', 8)];
        assert_eq!(ordered(&items, None), "a12 b15 c16 a13 c17 a14 a28 b21 ");
        assert_eq!(ordered(&items, Some('a')), "b15 c16 a12 c17 a13 a14 b21 a28 ");
        assert_eq!(ordered(&items, Some('b')), "c16 a12 b15 c17 a13 a14 a28 b21 ");
        assert_eq!(ordered(&items, Some('x')), ordered(&items, None));
        assert_eq!(ordered(&[], None), "");
    }
}
