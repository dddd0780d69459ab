//! Leases: who has which deliveries, and until when.
//!
//! Leases are in memory, since one process owns the store and all leases end with it. They use the monotonic clock, so
//! a change of the wall clock ends none. The database holds each delivery and its count, and decides who may settle. So
//! a renewal needs no disk access.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::broker::fair_share::takeover_order;
use crate::broker::{Error, LeaseRenewal, Receipt};

/// The content of [`Receipt::entry`]: the opening of the store that handed the delivery out, the event's number and the
/// place that it was claimed from. Together with the delivery count it identifies one delivery for all time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LeaseToken {
    pub(super) opening: i64,
    pub(super) number: i64,
    pub(super) place: i64,
    /// The sizes of the event's body and story at the claim, which stay the same until the settle. So the settle knows what
    /// the event counted for without reading it.
    pub(super) body_bytes: usize,
    pub(super) story_bytes: usize,
}

impl std::fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { opening, number, place, body_bytes, story_bytes } = self;
        write!(f, "{opening}.{number}.{place}.{body_bytes}.{story_bytes}")
    }
}

impl FromStr for LeaseToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.').map(|part| part.parse::<i64>().map_err(drop));
        let mut next = || parts.next().unwrap_or(Err(()));
        let (opening, number, place) = (next()?, next()?, next()?);
        let mut size = || usize::try_from(next()?).map_err(drop);
        let entry = Self { opening, number, place, body_bytes: size()?, story_bytes: size()? };
        parts.next().map_or(Ok(entry), |_| Err(()))
    }
}

/// A delivery that a consumer holds, or that one had when its process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeasedDelivery {
    pub(super) number: i64,
    /// The number of its lane.
    pub(super) lane: i64,
    pub(super) place: i64,
    pub(super) deliveries: u32,
}

/// A change of a lease. It takes effect after the commit of its step.
#[derive(Clone, Copy, Debug)]
pub(super) enum LeaseChange {
    Begins(LeasedDelivery),
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
    /// The deliveries of earlier openings, by delivery count, lane, place and number. The index keeps a takeover cheap:
    /// after a crash there may be very many.
    orphaned: BTreeSet<(u32, i64, i64, i64)>,
    /// The lane of the last takeover.
    last_lane: Option<i64>,
}

struct Lease {
    delivery: LeasedDelivery,
    /// `None` for a delivery of an earlier opening.
    until: Option<Instant>,
}

impl Lease {
    /// Whether the lease ended without a renewal.
    fn has_ended(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

impl KnownLeases {
    fn put(&mut self, delivery: LeasedDelivery, until: Option<Instant>) {
        self.remove(delivery.number);
        self.leases.insert(delivery.number, Lease { delivery, until });
        if until.is_none() {
            self.orphaned.insert((delivery.deliveries, delivery.lane, delivery.place, delivery.number));
        }
    }

    fn remove(&mut self, number: i64) {
        if let Some(Lease { delivery, until: None }) = self.leases.remove(&number) {
            self.orphaned.remove(&(delivery.deliveries, delivery.lane, delivery.place, delivery.number));
        }
    }

    /// The orphaned deliveries to take over next: at least `max`, if there are so many. Examines at most `max` of each
    /// lane and delivery count.
    fn next_orphaned(&self, max: usize) -> Vec<LeasedDelivery> {
        let (mut next, mut from) = (Vec::new(), (0, i64::MIN, i64::MIN, i64::MIN));
        while let Some(&(deliveries, lane, ..)) = self.orphaned.range(from..).next() {
            let is_next_count = next.last().is_some_and(|delivery: &LeasedDelivery| delivery.deliveries < deliveries);
            if is_next_count && next.len() >= max {
                break;
            }
            let of_lane =
                self.orphaned.range(from..).take(max).take_while(|orphan| (orphan.0, orphan.1) == (deliveries, lane));
            next.extend(of_lane.filter_map(|(.., number)| Some(self.leases.get(number)?.delivery)));
            from = (deliveries, lane.saturating_add(1), i64::MIN, i64::MIN);
        }
        self.in_takeover_order(next)
    }

    fn in_takeover_order(&self, found: Vec<LeasedDelivery>) -> Vec<LeasedDelivery> {
        takeover_order(found, self.last_lane.as_ref(), |delivery| (delivery.deliveries, delivery.lane))
    }
}

impl LeaseTable {
    /// A table with the deliveries that earlier openings left.
    pub(super) fn new(opening: i64, lease: Duration, orphaned: Vec<LeasedDelivery>) -> Arc<Self> {
        let mut known = KnownLeases::default();
        orphaned.into_iter().for_each(|delivery| known.put(delivery, None));
        Arc::new(Self { opening, lease, known: Mutex::new(known) })
    }

    /// Applies the changes of a committed group.
    pub(super) fn apply(&self, changes: &[LeaseChange]) {
        let until = Instant::now() + self.lease;
        let mut known = self.lock();
        for change in changes {
            match *change {
                LeaseChange::Begins(delivery) => known.put(delivery, Some(until)),
                LeaseChange::Ends { number } => known.remove(number),
            }
        }
    }

    /// Whether the lease of any delivery is over.
    pub(super) fn has_expired(&self) -> bool {
        let (now, known) = (Instant::now(), self.lock());
        !known.orphaned.is_empty() || known.leases.values().any(|lease| lease.has_ended(now))
    }

    /// At most `max` deliveries whose lease is over, in the order of their takeover.
    ///
    /// Orphaned deliveries come first. Among those, and among the others, the fewest delivery count comes first: an
    /// event that takes its host down again and again does not delay the others. Among equal counts the lanes take
    /// turns.
    pub(super) fn next_takeover(&self, max: usize) -> Vec<LeasedDelivery> {
        let now = Instant::now();
        let mut known = self.lock();
        let mut next = known.next_orphaned(max);
        if next.len() < max {
            let mut over: Vec<&Lease> = known.leases.values().filter(|lease| lease.has_ended(now)).collect();
            over.sort_unstable_by_key(|lease| (lease.until, lease.delivery.place));
            next.extend(known.in_takeover_order(over.into_iter().map(|lease| lease.delivery).collect()));
        }
        next.truncate(max);
        known.last_lane = next.last().map(|delivery| delivery.lane).or(known.last_lane);
        next
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, KnownLeases> {
        self.known.lock()
    }
}

#[async_trait]
impl LeaseRenewal for LeaseTable {
    /// Never fails or waits. Works on any runtime.
    async fn renew(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, Error> {
        let until = Instant::now() + self.lease;
        let mut known = self.lock();
        let mut renewed = |receipt: &&Receipt| {
            let Ok(entry) = receipt.entry.parse::<LeaseToken>() else { return false };
            let is_same = |lease: &Lease| {
                let LeasedDelivery { place, deliveries, .. } = lease.delivery;
                entry.opening == self.opening && (place, deliveries) == (entry.place, receipt.deliveries)
            };
            match known.leases.get_mut(&entry.number) {
                Some(lease) if is_same(lease) && lease.until.is_some() => {
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

    fn delivery(number: i64, deliveries: u32) -> LeasedDelivery {
        LeasedDelivery { number, lane: 0, place: number + 100, deliveries }
    }

    fn receipt(opening: i64, delivery: LeasedDelivery) -> Receipt {
        let entry =
            LeaseToken { opening, number: delivery.number, place: delivery.place, body_bytes: 0, story_bytes: 0 };
        let lane = "a".parse().unwrap();
        Receipt { event_id: EventId::new(), lane, entry: entry.to_string(), deliveries: delivery.deliveries }
    }

    #[test]
    fn entries_are_read_as_they_are_written() {
        let entry = LeaseToken { opening: 3, number: 17, place: i64::MAX, body_bytes: 65, story_bytes: 270_000 };
        assert_eq!(entry.to_string().parse(), Ok(entry));
        for bad in
            ["", "1", "1.2.3", "1.2.3.4", "1.2.3.4.x", "1.2.3.4.5.6", "1.2.3.4.5.", "1.2.3.4.-5", "-", "1..3.4.5"]
        {
            assert_eq!(bad.parse::<LeaseToken>(), Err(()), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_lease_is_renewed_for_its_holder_only() {
        let table = LeaseTable::new(7, Duration::from_secs(30), vec![delivery(1, 1)]);
        table.apply(&[
            LeaseChange::Begins(delivery(2, 1)),
            LeaseChange::Begins(delivery(3, 2)),
            LeaseChange::Begins(delivery(4, 1)),
        ]);
        table.apply(&[LeaseChange::Ends { number: 4 }]);
        let left = receipt(6, delivery(1, 1));
        let mine = receipt(7, delivery(2, 1));
        let older = receipt(7, delivery(3, 1));
        let ended = receipt(7, delivery(4, 1));
        let garbage = Receipt { entry: "1-1".into(), ..mine.clone() };
        let asked = [left.clone(), mine, older.clone(), ended.clone(), garbage.clone()];
        assert_eq!(table.renew(&asked).await, Ok(vec![left, older, ended, garbage]));
    }

    #[test]
    fn what_the_gone_left_is_over_at_once_and_the_rest_in_its_time() {
        let table = LeaseTable::new(7, Duration::ZERO, vec![delivery(9, 1)]);
        table.apply(&[LeaseChange::Begins(delivery(1, 1))]);
        table.apply(&[LeaseChange::Begins(delivery(2, 1))]);
        assert_eq!(table.next_takeover(10), [delivery(9, 1), delivery(1, 1), delivery(2, 1)]);
        assert_eq!(table.next_takeover(1), [delivery(9, 1)]);
        table.apply(&[LeaseChange::Begins(delivery(1, 2))]);
        assert_eq!(table.next_takeover(10), [delivery(9, 1), delivery(2, 1), delivery(1, 2)]);
        table.apply(&[
            LeaseChange::Begins(delivery(9, 2)),
            LeaseChange::Ends { number: 1 },
            LeaseChange::Ends { number: 2 },
        ]);
        assert_eq!(table.next_takeover(10), [delivery(9, 2)], "it is no longer orphaned");
        let table = LeaseTable::new(7, Duration::from_secs(30), vec![delivery(5, 2), delivery(6, 1), delivery(7, 1)]);
        table.apply(&[LeaseChange::Ends { number: 6 }]);
        assert_eq!(table.next_takeover(10), [delivery(7, 1), delivery(5, 2)]);
        let patient = LeaseTable::new(7, Duration::from_secs(30), vec![]);
        patient.apply(&[LeaseChange::Begins(delivery(1, 1))]);
        assert!(patient.next_takeover(10).is_empty() && !patient.has_expired());
    }

    #[test]
    fn lanes_take_turns_whoever_left_most() {
        let of = |lane: i64, number: i64, deliveries: u32| LeasedDelivery { lane, ..delivery(number, deliveries) };
        let left =
            (1..=50).map(|n| of(1, n, 1)).chain([of(2, 60, 1), of(2, 61, 1), of(3, 70, 1), of(3, 71, 2)]).collect();
        let table = LeaseTable::new(7, Duration::ZERO, left);
        let taken = |n: usize| {
            let over = table.next_takeover(n);
            let again = over.iter().map(|delivery| LeaseChange::Begins(LeasedDelivery { deliveries: 9, ..*delivery }));
            table.apply(&again.collect::<Vec<_>>());
            over.iter().map(|delivery| delivery.number).collect::<Vec<_>>()
        };
        assert!(table.has_expired());
        assert_eq!((0..4).map(|_| taken(1)).collect::<Vec<_>>().concat(), [1, 60, 70, 2]);
        assert_eq!(taken(4), [61, 3, 4, 5]);
        assert_eq!(taken(45).len(), 45);
        assert_eq!(taken(1), [71], "the last orphan, which was delivered more often");
        // From here on the deliveries of this opening, whose leases end at once.
        assert_eq!((0..4).map(|_| table.next_takeover(1)[0].lane).collect::<Vec<_>>(), [1, 2, 3, 1]);
    }
}
