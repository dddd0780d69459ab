//! Totals and depths. The writer counts them in memory and commits them with the changes that they count.
//!
//! So statistics need no access to the database, and an opened store needs no count. The numbers are those of the last
//! commit: after a rollback the writer restores them.

use rusqlite::Connection;

use crate::broker::lane_bytes::ATTEMPTS_ROOM_BYTES;
use crate::broker::{BrokerStats, EventCounters, Lane, LaneLimits, QueueDepth};
use crate::event::FailureClass;

use super::row_size::{IDEMPOTENCY_KEY_BYTES, signed};

/// The prefix of the totals that count failures of one class.
const FAILED_AS: &str = "failed as ";

/// The totals. The writer owns them, and others see copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoreTotals {
    pub(super) counters: EventCounters,
    /// Events that are being handled.
    pub(super) running: u64,
    /// Events that are due later.
    pub(super) scheduled: u64,
    /// State keys of all plugins.
    pub(super) state_keys: u64,
    /// The next number for an event or a place.
    pub(super) next_number: i64,
    /// The lanes in the order of their numbers, which begin at 1 and have no gaps.
    pub(super) lanes: Vec<LaneTotal>,
}

/// The totals of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaneTotal {
    pub(super) lane: Lane,
    pub(super) queued: u64,
    /// Events that have not ended. The bytes of all tallies are those of payloads, attempts, results and rows.
    pub(super) waiting: Tally,
    /// Failed events that the store keeps.
    pub(super) failed: Tally,
    /// Processed events that the store keeps.
    pub(super) processed: Tally,
    /// Discarded events that the store keeps.
    pub(super) discarded: Tally,
    /// Idempotency keys of its events.
    pub(super) idempotency_keys: u64,
}

/// How many events there are, and about how many bytes they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// No event of these is left up to this place. It is not stored: trimming finds it again.
    pub(super) trimmed_to: i64,
}

impl Tally {
    fn add(&mut self, more: i64, more_bytes: i64) {
        self.events = self.events.saturating_add_signed(more);
        // A row that was damaged on the disk was added with another size.
        self.bytes = if self.events == 0 { 0 } else { self.bytes.saturating_add_signed(more_bytes) };
    }
}

impl LaneTotal {
    /// The bytes of its waiting events, with the room for their attempts, and of its failed ones.
    pub(super) fn stored_bytes(&self) -> (u64, u64) {
        let room_bytes = self.waiting.events.saturating_mul(ATTEMPTS_ROOM_BYTES);
        (self.waiting.bytes.saturating_add(room_bytes), self.failed.bytes)
    }

    /// The totals of an empty lane.
    fn new(lane: Lane) -> Self {
        let none = Tally::default();
        Self { lane, queued: 0, waiting: none, failed: none, processed: none, discarded: none, idempotency_keys: 0 }
    }
}

/// The most bytes of each kind that a store keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreByteLimits {
    pub(super) max_lane_bytes: u64,
    /// What one lane or one plugin may take of the disk; `None` if its size is unknown.
    pub(super) share_bytes: Option<u64>,
    pub(super) max_history_bytes: u64,
    pub(super) max_idempotency_bytes: u64,
}

impl StoreTotals {
    /// The bytes that all lanes hold together, see [`LaneTotal::stored_bytes`].
    pub(super) fn stored_bytes(&self) -> u64 {
        let of_each = self.lanes.iter().map(LaneTotal::stored_bytes);
        of_each.fold(0_u64, |sum, (waiting, failed)| sum.saturating_add(waiting).saturating_add(failed))
    }

    /// Reads the totals of the last commit.
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let mut totals = Self { next_number: 1, ..Self::default() };
        let mut rows = db.prepare_cached("SELECT name, value FROM total")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            totals.set(row.get_ref(0)?.as_str()?, row.get(1)?);
        }
        let mut lanes = db.prepare_cached(
            "SELECT name, queued, waiting, waiting_bytes, failed, failed_bytes, kept, kept_bytes, discarded, \
             discarded_bytes, idempotency_keys FROM lane ORDER BY number",
        )?;
        let mut lanes = lanes.query([])?;
        while let Some(row) = lanes.next()? {
            let lane = row.get_ref(0)?.as_str()?.parse().unwrap_or_else(|_| Lane::unrouted());
            let count = |column| row.get(column).map(unsigned);
            let mut total = LaneTotal { queued: count(1)?, idempotency_keys: count(10)?, ..LaneTotal::new(lane) };
            let LaneTotal { waiting, failed, processed, discarded, .. } = &mut total;
            for (first, tally) in [(2, waiting), (4, failed), (6, processed), (8, discarded)] {
                (tally.events, tally.bytes) = (count(first)?, count(first + 1)?);
            }
            totals.lanes.push(total);
        }
        Ok(totals)
    }

    /// Writes the totals that differ from `written`.
    pub(super) fn save(&self, written: &Self, db: &Connection) -> rusqlite::Result<()> {
        let mut save = db.prepare_cached(
            "INSERT INTO total (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )?;
        for ((name, value), (_, before)) in self.named_totals().into_iter().zip(written.named_totals()) {
            if value != before {
                save.execute((name, value))?;
            }
        }
        for (class, value) in &self.counters.failed_by_class {
            if written.counters.failed_by_class.get(class) != Some(value) {
                save.execute((format!("{FAILED_AS}{class}"), signed(*value)))?;
            }
        }
        let mut save = db.prepare_cached(
            "UPDATE lane SET queued = ?2, waiting = ?3, waiting_bytes = ?4, failed = ?5, failed_bytes = ?6, kept = ?7, \
             kept_bytes = ?8, discarded = ?9, discarded_bytes = ?10, idempotency_keys = ?11 WHERE number = ?1",
        )?;
        for (index, lane) in self.lanes.iter().enumerate() {
            if written.lanes.get(index) != Some(lane) {
                let tallies = [lane.waiting, lane.failed, lane.processed, lane.discarded];
                let counts = tallies.into_iter().flat_map(|tally| [tally.events, tally.bytes]);
                let values = [number_of(index), signed(lane.queued)].into_iter().chain(counts.map(signed));
                let values = values.chain([signed(lane.idempotency_keys)]);
                save.execute(rusqlite::params_from_iter(values))?;
            }
        }
        Ok(())
    }

    /// Returns a number that was never used before.
    pub(super) fn take_number(&mut self) -> i64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// Whether no event is being handled or waits to be handled now.
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0 && self.lanes.iter().all(|lane| lane.queued == 0)
    }

    /// The events that have not ended.
    pub(super) fn waiting(&self) -> u64 {
        self.sum(|lane| lane.queued) + self.running + self.scheduled
    }

    /// The number of a lane, if there is one.
    pub(super) fn lane_number(&self, lane: &Lane) -> Option<i64> {
        self.lanes.iter().position(|known| known.lane == *lane).map(number_of)
    }

    /// Adds an empty lane and returns its number.
    pub(super) fn add_lane(&mut self, lane: Lane) -> i64 {
        self.lanes.push(LaneTotal::new(lane));
        number_of(self.lanes.len() - 1)
    }

    /// The lane with this number.
    pub(super) fn lane(&self, number: i64) -> Option<&LaneTotal> {
        self.lanes.get(index_of(number)?)
    }

    /// Adds to the queued events of a lane.
    pub(super) fn add_queued(&mut self, number: i64, more: i64) {
        if let Some(lane) = index_of(number).and_then(|index| self.lanes.get_mut(index)) {
            lane.queued = lane.queued.saturating_add_signed(more);
        }
    }

    /// Adds to the idempotency keys of a lane. Number 0 stands for the lane of events that no plugin handles.
    pub(super) fn add_idempotency_keys(&mut self, number: i64, more: i64) {
        let lane = match index_of(number) {
            Some(index) => self.lanes.get_mut(index),
            None => self.lanes.iter_mut().find(|known| known.lane == Lane::unrouted()),
        };
        if let Some(lane) = lane {
            lane.idempotency_keys = lane.idempotency_keys.saturating_add_signed(more);
        }
    }

    /// The idempotency keys of all lanes.
    pub(super) fn idempotency_keys(&self) -> u64 {
        self.sum(|lane| lane.idempotency_keys)
    }

    /// Adds to a tally of a lane.
    pub(super) fn add(&mut self, number: i64, of: fn(&mut LaneTotal) -> &mut Tally, more: i64, more_bytes: i64) {
        if let Some(lane) = index_of(number).and_then(|index| self.lanes.get_mut(index)) {
            of(lane).add(more, more_bytes);
        }
    }

    /// Notes that no event of a tally is left up to a place.
    pub(super) fn set_trimmed_to(&mut self, number: i64, of: fn(&mut LaneTotal) -> &mut Tally, place: i64) {
        if let Some(lane) = index_of(number).and_then(|index| self.lanes.get_mut(index)) {
            of(lane).trimmed_to = place;
        }
    }

    /// The totals of a lane by name, if there is one.
    pub(super) fn lane_named(&self, lane: &Lane) -> Option<&LaneTotal> {
        self.lanes.iter().find(|known| known.lane == *lane)
    }

    /// The events that have not ended, where no lane counts for more than its limit.
    pub(super) fn waiting_within_limits(&self, limits: &LaneLimits) -> u64 {
        self.lanes.iter().map(|lane| lane.waiting.events.min(limits.of(&lane.lane))).sum()
    }

    /// Counts a failed event of a lane.
    pub(super) fn count_failed(&mut self, number: i64, class: FailureClass, size_bytes: i64) {
        self.counters.failed += 1;
        *self.counters.failed_by_class.entry(class).or_default() += 1;
        self.add(number, |lane| &mut lane.failed, 1, size_bytes);
    }

    fn sum(&self, of: fn(&LaneTotal) -> u64) -> u64 {
        self.lanes.iter().map(of).sum()
    }

    /// The totals as the broker reports them.
    pub(super) fn stats(&self, limits: &StoreByteLimits) -> BrokerStats {
        let StoreByteLimits { max_lane_bytes, share_bytes, max_history_bytes, max_idempotency_bytes } = *limits;
        let by_lane =
            |count: fn(&LaneTotal) -> u64| self.lanes.iter().map(|lane| (lane.lane.to_string(), count(lane))).collect();
        BrokerStats {
            counters: self.counters.clone(),
            depth: QueueDepth {
                queued: by_lane(|lane| lane.queued),
                waiting_by_lane: by_lane(|lane| lane.waiting.events),
                waiting_bytes_by_lane: by_lane(|lane| lane.waiting.bytes),
                failed_bytes_by_lane: by_lane(|lane| lane.failed.bytes),
                max_lane_bytes: Some(max_lane_bytes),
                lane_share_bytes: share_bytes,
                max_history_bytes: Some(max_history_bytes),
                kept_bytes_by_lane: by_lane(|lane| lane.processed.bytes.saturating_add(lane.discarded.bytes)),
                idempotency_bytes_by_lane: by_lane(|lane| lane.idempotency_keys.saturating_mul(IDEMPOTENCY_KEY_BYTES)),
                max_idempotency_bytes: Some(max_idempotency_bytes),
                running: self.running,
                scheduled: self.scheduled,
                processed_kept: self.sum(|lane| lane.processed.events),
                failed_kept: self.sum(|lane| lane.failed.events),
                state_keys: self.state_keys,
                consumers: 1,
            },
        }
    }

    fn named_totals(&self) -> [(&'static str, i64); 18] {
        let counters = &self.counters;
        [
            ("accepted", signed(counters.accepted)),
            ("duplicates", signed(counters.duplicates)),
            ("published", signed(counters.published)),
            ("processed", signed(counters.processed)),
            ("failed", signed(counters.failed)),
            ("retried", signed(counters.retried)),
            ("deferred", signed(counters.deferred)),
            ("replayed", signed(counters.replayed)),
            ("discarded", signed(counters.discarded)),
            ("recovered", signed(counters.recovered)),
            ("data_losses", signed(counters.data_losses)),
            ("state_conflicts", signed(counters.state_conflicts)),
            ("running", signed(self.running)),
            ("scheduled", signed(self.scheduled)),
            ("processed_kept", signed(self.sum(|lane| lane.processed.events))),
            ("failed_kept", signed(self.sum(|lane| lane.failed.events))),
            ("state_keys", signed(self.state_keys)),
            ("next_number", self.next_number),
        ]
    }

    fn set(&mut self, name: &str, value: i64) {
        let counters = &mut self.counters;
        let slot = match name {
            "accepted" => &mut counters.accepted,
            "duplicates" => &mut counters.duplicates,
            "published" => &mut counters.published,
            "processed" => &mut counters.processed,
            "failed" => &mut counters.failed,
            "retried" => &mut counters.retried,
            "deferred" => &mut counters.deferred,
            "replayed" => &mut counters.replayed,
            "discarded" => &mut counters.discarded,
            "recovered" => &mut counters.recovered,
            "data_losses" => &mut counters.data_losses,
            "state_conflicts" => &mut counters.state_conflicts,
            "running" => &mut self.running,
            "scheduled" => &mut self.scheduled,
            "state_keys" => &mut self.state_keys,
            "next_number" => return self.next_number = value,
            _ => {
                let class = name.strip_prefix(FAILED_AS);
                match FailureClass::ALL.into_iter().find(|known| Some(known.as_str()) == class) {
                    Some(class) => counters.failed_by_class.entry(class).or_default(),
                    None => return,
                }
            }
        };
        *slot = unsigned(value);
    }
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn number_of(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX).saturating_add(1)
}

fn index_of(number: i64) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::store::open_database;

    #[test]
    fn totals_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let db = open_database(&dir.path().join("a.db")).unwrap();
        let empty = StoreTotals::load(&db).unwrap();
        assert_eq!(empty, StoreTotals { next_number: 1, ..StoreTotals::default() });
        let mut totals = empty.clone();
        totals.counters = EventCounters {
            accepted: 1,
            duplicates: 2,
            published: 3,
            processed: 4,
            retried: 5,
            replayed: 6,
            discarded: 16,
            deferred: 15,
            recovered: 7,
            data_losses: 8,
            state_conflicts: 13,
            ..totals.counters
        };
        StoreTotals { running: 9, scheduled: 10, next_number: 12, state_keys: 14, ..totals.clone() }
            .clone_into(&mut totals);
        for name in ["a", "_", "b"] {
            db.execute("INSERT INTO lane (name, queued, waiting) VALUES (?1, 0, 0)", [name]).unwrap();
            let number = totals.add_lane(name.parse().unwrap());
            totals.add(number, |lane| &mut lane.waiting, 9, 90);
            totals.add(number, |lane| &mut lane.processed, 4, 40);
            totals.add(number, |lane| &mut lane.discarded, 6, 60);
            totals.add_idempotency_keys(number, 17);
        }
        for class in FailureClass::ALL {
            totals.count_failed(3, class, 10);
        }
        totals.add_queued(2, 5);
        totals.add_queued(2, -2);
        totals.add_idempotency_keys(0, 2);
        assert_eq!((totals.lanes[1].idempotency_keys, totals.idempotency_keys()), (19, 3 * 17 + 2));
        totals.save(&empty, &db).unwrap();
        assert_eq!(StoreTotals::load(&db).unwrap(), totals);
        assert_eq!(totals.waiting(), 3 + 9 + 10);
        assert_eq!(totals.lane_number(&"b".parse().unwrap()), Some(3));
    }
}
