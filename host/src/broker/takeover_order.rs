//! The order in which a consumer takes over deliveries from dead consumers.

use std::collections::BTreeMap;

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
