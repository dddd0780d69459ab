//! In which order suspects are taken over.

use std::collections::BTreeMap;

/// Puts what was delivered the fewest times first; of the same count the lanes take turns, beginning with the one behind
/// `last`, so that what one plugin left does not hold up what others did. Within a lane the order stays.
///
/// `of` is the count of an item and its lane.
pub(super) fn in_turn<T, L: Ord + Clone>(items: Vec<T>, last: Option<&L>, of: impl Fn(&T) -> (u32, L)) -> Vec<T> {
    let mut so_far: BTreeMap<(u32, L), usize> = BTreeMap::new();
    let mut ranked: Vec<_> = items
        .into_iter()
        .map(|item| {
            let (count, lane) = of(&item);
            let round = so_far.entry((count, lane.clone())).or_default();
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
            let items = in_turn(items.to_vec(), last.as_ref(), |(count, lane, _)| (*count, *lane));
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
