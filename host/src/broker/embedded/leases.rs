//! Who holds what, and until when.
//!
//! Leases are kept in memory and by the monotonic clock: one process owns the store, so that every lease ends with it,
//! and a wall clock that is set takes none away. That a delivery was handed out, and how often, is in the database; what
//! stands there decides who may settle. A renewal therefore waits for no disk.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::broker::takeover_order::takeover_order;
use crate::broker::{Error, LeaseRenewal, Receipt};

/// The text of [`Receipt::entry`]: which opening of the store handed the delivery out, of which event, claimed from which
/// place. Together with the count of deliveries it names one delivery for all time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LeaseToken {
    pub(super) opening: i64,
    pub(super) number: i64,
    pub(super) place: i64,
}

impl std::fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.opening, self.number, self.place)
    }
}

impl FromStr for LeaseToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.').map(|part| part.parse().map_err(drop));
        let mut next = || parts.next().unwrap_or(Err(()));
        let entry = Self { opening: next()?, number: next()?, place: next()? };
        parts.next().map_or(Ok(entry), |_| Err(()))
    }
}

/// A delivery that is held, or was by a consumer that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldDelivery {
    pub(super) number: i64,
    /// The number of its lane.
    pub(super) lane: i64,
    pub(super) place: i64,
    pub(super) deliveries: u32,
}

/// What a step does to leases; takes effect when the step is durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum LeaseChange {
    Begins(HeldDelivery),
    Ends { number: i64 },
}

/// The leases, by the number of the event.
pub(super) struct LeaseTable {
    opening: i64,
    lease: Duration,
    known: Mutex<KnownLeases>,
}

#[derive(Default)]
struct KnownLeases {
    leases: HashMap<i64, Lease>,
    /// Those of consumers that are gone, by deliveries, lane, place and number: looked through once for each of them, what a
    /// few crashes leave would take minutes of a core.
    left: BTreeSet<(u32, i64, i64, i64)>,
    /// The lane of which one was taken over last.
    last: Option<i64>,
}

struct Lease {
    held: HeldDelivery,
    /// `None` if its consumer is gone.
    until: Option<Instant>,
}

impl Lease {
    /// Whether it has ended by itself.
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

impl KnownLeases {
    fn put(&mut self, held: HeldDelivery, until: Option<Instant>) {
        self.remove(held.number);
        self.leases.insert(held.number, Lease { held, until });
        if until.is_none() {
            self.left.insert((held.deliveries, held.lane, held.place, held.number));
        }
    }

    fn remove(&mut self, number: i64) {
        if let Some(Lease { held, until: None }) = self.leases.remove(&number) {
            self.left.remove(&(held.deliveries, held.lane, held.place, held.number));
        }
    }

    /// Those of consumers that are gone that come next, and no fewer than `max` if there are. However many there are, only so
    /// many of each lane are looked at.
    fn next_left(&self, max: usize) -> Vec<HeldDelivery> {
        let (mut next, mut from) = (Vec::new(), (0, i64::MIN, i64::MIN, i64::MIN));
        while let Some(&(deliveries, lane, ..)) = self.left.range(from..).next() {
            let is_next_count = next.last().is_some_and(|held: &HeldDelivery| held.deliveries < deliveries);
            if is_next_count && next.len() >= max {
                break;
            }
            let of_lane = self.left.range(from..).take(max).take_while(|left| (left.0, left.1) == (deliveries, lane));
            next.extend(of_lane.filter_map(|(.., number)| Some(self.leases.get(number)?.held)));
            from = (deliveries, lane.saturating_add(1), i64::MIN, i64::MIN);
        }
        self.takeover_order(next)
    }

    fn takeover_order(&self, held: Vec<HeldDelivery>) -> Vec<HeldDelivery> {
        takeover_order(held, self.last.as_ref(), |held| (held.deliveries, held.lane))
    }
}

impl LeaseTable {
    /// A table of deliveries that former consumers left.
    pub(super) fn new(opening: i64, lease: Duration, left: Vec<HeldDelivery>) -> Arc<Self> {
        let mut known = KnownLeases::default();
        left.into_iter().for_each(|held| known.put(held, None));
        Arc::new(Self { opening, lease, known: Mutex::new(known) })
    }

    /// The changes of steps that were committed.
    pub(super) fn apply(&self, changes: &[LeaseChange]) {
        let until = Instant::now() + self.lease;
        let mut known = self.lock();
        for change in changes {
            match *change {
                LeaseChange::Begins(held) => known.put(held, Some(until)),
                LeaseChange::Ends { number } => known.remove(number),
            }
        }
    }

    /// Whether the lease of any delivery is over.
    pub(super) fn is_any_over(&self) -> bool {
        let (now, known) = (Instant::now(), self.lock());
        !known.left.is_empty() || known.leases.values().any(|lease| lease.is_over(now))
    }

    /// Deliveries whose lease is over, to be taken over now: those of consumers that are gone first; among them, and among the
    /// others, those that were delivered the fewest times, so that what takes its host down again and again holds up none
    /// that does not; and of the same count the lanes in turn, which passes on with each call.
    pub(super) fn over(&self, max: usize) -> Vec<HeldDelivery> {
        let now = Instant::now();
        let mut known = self.lock();
        let mut held = known.next_left(max);
        if held.len() < max {
            let mut over: Vec<&Lease> = known.leases.values().filter(|lease| lease.is_over(now)).collect();
            over.sort_unstable_by_key(|lease| (lease.until, lease.held.place));
            held.extend(known.takeover_order(over.into_iter().map(|lease| lease.held).collect()));
        }
        held.truncate(max);
        known.last = held.last().map(|held| held.lane).or(known.last);
        held
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, KnownLeases> {
        self.known.lock()
    }
}

#[async_trait]
impl LeaseRenewal for LeaseTable {
    /// Never fails and never waits; may be used on any runtime.
    async fn renew(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, Error> {
        let until = Instant::now() + self.lease;
        let mut known = self.lock();
        let mut renewed = |receipt: &&Receipt| {
            let Ok(entry) = receipt.entry.parse::<LeaseToken>() else { return false };
            let is_it = |lease: &Lease| {
                let HeldDelivery { place, deliveries, .. } = lease.held;
                entry.opening == self.opening && (place, deliveries) == (entry.place, receipt.deliveries)
            };
            match known.leases.get_mut(&entry.number) {
                Some(lease) if is_it(lease) && lease.until.is_some() => {
                    lease.until = Some(until);
                    true
                }
                _ => false,
            }
        };
        Ok(receipts.iter().filter(|receipt| !renewed(receipt)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    fn held(number: i64, deliveries: u32) -> HeldDelivery {
        HeldDelivery { number, lane: 0, place: number + 100, deliveries }
    }

    fn receipt(opening: i64, held: HeldDelivery) -> Receipt {
        let entry = LeaseToken { opening, number: held.number, place: held.place };
        let lane = "a".parse().unwrap();
        Receipt { event_id: EventId::new(), lane, entry: entry.to_string(), deliveries: held.deliveries }
    }

    #[test]
    fn entries_are_read_as_they_are_written() {
        let entry = LeaseToken { opening: 3, number: 17, place: i64::MAX };
        assert_eq!(entry.to_string().parse(), Ok(entry));
        for bad in ["", "1", "1.2", "1.2.x", "1.2.3.4", "1.2.3.", "-", "1..3"] {
            assert_eq!(bad.parse::<LeaseToken>(), Err(()), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_lease_is_renewed_for_its_holder_only() {
        let table = LeaseTable::new(7, Duration::from_secs(30), vec![held(1, 1)]);
        table.apply(&[
            LeaseChange::Begins(held(2, 1)),
            LeaseChange::Begins(held(3, 2)),
            LeaseChange::Begins(held(4, 1)),
        ]);
        table.apply(&[LeaseChange::Ends { number: 4 }]);
        let left = receipt(6, held(1, 1));
        let mine = receipt(7, held(2, 1));
        let older = receipt(7, held(3, 1));
        let ended = receipt(7, held(4, 1));
        let garbage = Receipt { entry: "1-1".into(), ..mine.clone() };
        let asked = [left.clone(), mine, older.clone(), ended.clone(), garbage.clone()];
        assert_eq!(table.renew(&asked).await, Ok(vec![left, older, ended, garbage]));
    }

    #[test]
    fn what_the_gone_left_is_over_at_once_and_the_rest_in_its_time() {
        let table = LeaseTable::new(7, Duration::ZERO, vec![held(9, 1)]);
        table.apply(&[LeaseChange::Begins(held(1, 1))]);
        table.apply(&[LeaseChange::Begins(held(2, 1))]);
        assert_eq!(table.over(10), [held(9, 1), held(1, 1), held(2, 1)]);
        assert_eq!(table.over(1), [held(9, 1)]);
        table.apply(&[LeaseChange::Begins(held(1, 2))]);
        assert_eq!(table.over(10), [held(9, 1), held(2, 1), held(1, 2)]);
        table.apply(&[
            LeaseChange::Begins(held(9, 2)),
            LeaseChange::Ends { number: 1 },
            LeaseChange::Ends { number: 2 },
        ]);
        assert_eq!(table.over(10), [held(9, 2)], "it is nobody's legacy any more");
        let table = LeaseTable::new(7, Duration::from_secs(30), vec![held(5, 2), held(6, 1), held(7, 1)]);
        table.apply(&[LeaseChange::Ends { number: 6 }]);
        assert_eq!(table.over(10), [held(7, 1), held(5, 2)]);
        let patient = LeaseTable::new(7, Duration::from_secs(30), vec![]);
        patient.apply(&[LeaseChange::Begins(held(1, 1))]);
        assert!(patient.over(10).is_empty() && !patient.is_any_over());
    }

    #[test]
    fn lanes_take_turns_whoever_left_most() {
        let of = |lane: i64, number: i64, deliveries: u32| HeldDelivery { lane, ..held(number, deliveries) };
        let left =
            (1..=50).map(|n| of(1, n, 1)).chain([of(2, 60, 1), of(2, 61, 1), of(3, 70, 1), of(3, 71, 2)]).collect();
        let table = LeaseTable::new(7, Duration::ZERO, left);
        let taken = |n: usize| {
            let over = table.over(n);
            let again = over.iter().map(|held| LeaseChange::Begins(HeldDelivery { deliveries: 9, ..*held }));
            table.apply(&again.collect::<Vec<_>>());
            over.iter().map(|held| held.number).collect::<Vec<_>>()
        };
        assert!(table.is_any_over());
        assert_eq!((0..4).map(|_| taken(1)).collect::<Vec<_>>().concat(), [1, 60, 70, 2]);
        assert_eq!(taken(4), [61, 3, 4, 5]);
        assert_eq!(taken(45).len(), 45);
        assert_eq!(taken(1), [71], "the last of those that are gone, and delivered more often");
        // From here on those of this opening, whose leases are over at once.
        assert_eq!((0..4).map(|_| table.over(1)[0].lane).collect::<Vec<_>>(), [1, 2, 3, 1]);
    }
}
