//! How many bytes the lanes may hold, and how many of state the plugins may keep (G8, G12).
//!
//! One of them may take its share of the store. All of them together may take two shares: as they fill the second, the most
//! that one may take shrinks, down to an even part of a quarter. So no number of lanes fills a store, and a lane that holds
//! little is not refused because others hold much.

/// The room that a lane keeps for the attempts of each event that waits: as much as a full lane keeps of them. So a lane
/// that is full of small events does not grow far beyond its limit when they are tried.
pub const ATTEMPTS_ROOM_BYTES: u64 = 512;

/// This part of a share is divided evenly, for those who come when all else is taken. It counts for so many holders at
/// least, so that the first ones do not take the whole part.
const OWN_DIVISOR: u64 = 4;

/// The most bytes that one of `holders` may hold, where all of them hold `stored_bytes` and `share_bytes` is what one may take
/// of the store.
pub(crate) fn shrinking_share(share_bytes: u64, stored_bytes: u64, holders: u64) -> u64 {
    let left_bytes = share_bytes.saturating_mul(2).saturating_sub(stored_bytes);
    left_bytes.min(share_bytes).max(share_bytes / OWN_DIVISOR / holders.max(OWN_DIVISOR))
}

/// The most bytes that one of `lanes` lanes may hold now, where all of them hold `stored_bytes`. `max_lane_bytes` is what one
/// may ever hold, and `share_bytes` what one may take of the store; `None` if the size of the store is unknown.
pub(crate) fn lane_level_bytes(max_lane_bytes: u64, share_bytes: Option<u64>, stored_bytes: u64, lanes: u64) -> u64 {
    share_bytes.map_or(max_lane_bytes, |share| max_lane_bytes.min(shrinking_share(share, stored_bytes, lanes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_has_its_whole_share_until_all_together_hold_one() {
        for (stored, holders, expected) in [
            (0, 1, 100),
            (100, 1, 100),
            (100, 9, 100),
            (130, 9, 70),
            (180, 9, 20),
            (199, 9, 2),
            (10_000, 9, 2),
            (10_000, 1, 6),
        ] {
            assert_eq!(shrinking_share(100, stored, holders), expected, "{stored} of {holders}");
        }
        assert_eq!(shrinking_share(100, 0, 0), 100);
        assert!(shrinking_share(u64::MAX, 1 << 40, 3) > 1 << 60, "a store of unknown size");
        assert_eq!([None, Some(100)].map(|share| lane_level_bytes(80, share, 130, 9)), [80, 70]);
    }

    #[test]
    fn however_many_fill_their_parts_they_stay_within_two_shares() {
        for holders in [1, 2, 3, 8, 50, 400] {
            let mut stored = vec![0_u64; holders];
            for round in 0..200_000 {
                let sum = stored.iter().sum();
                let most = shrinking_share(1_000_000, sum, holders as u64);
                let one = &mut stored[round % holders];
                *one += if *one + 1_000 <= most { 1_000 } else { 0 };
            }
            let sum: u64 = stored.iter().sum();
            assert!((990_000..=2_250_000).contains(&sum), "{holders} hold {sum}");
        }
    }
}
