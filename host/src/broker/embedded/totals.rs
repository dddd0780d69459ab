//! Totals and depths. The writer counts them in memory and commits them with the changes that they count.
//!
//! So statistics need no access to the database, and an opened store needs no count. The numbers are those of the last
//! commit: after a rollback the writer restores them.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::broker::{BrokerStats, EventCounters, Lane, LaneLimits, QueueDepth};
use crate::event::FailureClass;

use super::row_size::signed;

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
    pub(super) processed_kept: u64,
    pub(super) failed_kept: u64,
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
    /// Events that have not ended.
    pub(super) waiting: u64,
    /// The bytes of these: their payloads and rows.
    pub(super) waiting_bytes: u64,
    /// Processed events that the store keeps.
    pub(super) kept: u64,
    /// The bytes of these: their payloads, results, stories and rows.
    pub(super) kept_bytes: u64,
    /// No processed event up to this place is left. It is not stored: trimming finds it again.
    pub(super) kept_from: i64,
}

impl LaneTotal {
    /// The totals of an empty lane.
    fn new(lane: Lane) -> Self {
        Self { lane, queued: 0, waiting: 0, waiting_bytes: 0, kept: 0, kept_bytes: 0, kept_from: 0 }
    }
}

impl StoreTotals {
    /// Reads the totals of the last commit.
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let mut totals = Self { next_number: 1, ..Self::default() };
        let mut rows = db.prepare_cached("SELECT name, value FROM total")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            totals.set(row.get_ref(0)?.as_str()?, row.get(1)?);
        }
        let mut lanes = db.prepare_cached(
            "SELECT name, queued, waiting, kept, waiting_bytes, kept_bytes FROM lane ORDER BY number",
        )?;
        let mut lanes = lanes.query([])?;
        while let Some(row) = lanes.next()? {
            let lane = row.get_ref(0)?.as_str()?.parse().unwrap_or_else(|_| Lane::unrouted());
            let count = |column| row.get(column).map(unsigned);
            let (queued, waiting, kept) = (count(1)?, count(2)?, count(3)?);
            let (waiting_bytes, kept_bytes) = (count(4)?, count(5)?);
            totals.lanes.push(LaneTotal { lane, queued, waiting, waiting_bytes, kept, kept_bytes, kept_from: 0 });
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
            "UPDATE lane SET queued = ?2, waiting = ?3, kept = ?4, waiting_bytes = ?5, kept_bytes = ?6 WHERE number = ?1",
        )?;
        for (index, lane) in self.lanes.iter().enumerate() {
            if written.lanes.get(index) != Some(lane) {
                let (queued, waiting, kept) = (signed(lane.queued), signed(lane.waiting), signed(lane.kept));
                let (waiting_bytes, kept_bytes) = (signed(lane.waiting_bytes), signed(lane.kept_bytes));
                save.execute((number_of(index), queued, waiting, kept, waiting_bytes, kept_bytes))?;
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
        self.lanes.iter().map(|lane| lane.queued).sum::<u64>() + self.running + self.scheduled
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

    /// Adds to the events of a lane that have not ended, and to their bytes.
    pub(super) fn add_waiting(&mut self, number: i64, more: i64, more_bytes: i64) {
        if let Some(lane) = index_of(number).and_then(|index| self.lanes.get_mut(index)) {
            lane.waiting = lane.waiting.saturating_add_signed(more);
            // A row that was damaged on the disk was added with another size.
            let has_none = lane.waiting == 0;
            lane.waiting_bytes = if has_none { 0 } else { lane.waiting_bytes.saturating_add_signed(more_bytes) };
        }
    }

    /// Adds to the processed events of a lane that the store keeps, and to their bytes.
    pub(super) fn add_kept(&mut self, number: i64, more: i64, more_bytes: i64) {
        self.processed_kept = self.processed_kept.saturating_add_signed(more);
        if let Some(lane) = index_of(number).and_then(|index| self.lanes.get_mut(index)) {
            lane.kept = lane.kept.saturating_add_signed(more);
            let has_none = lane.kept == 0;
            lane.kept_bytes = if has_none { 0 } else { lane.kept_bytes.saturating_add_signed(more_bytes) };
        }
    }

    /// The number of the lane with the largest measure, and how much larger that is than any other lane's.
    pub(super) fn largest_lane(&self, measure: impl Fn(&LaneTotal) -> u64) -> Option<(i64, u64)> {
        let (index, most) = self.lanes.iter().map(&measure).enumerate().max_by_key(|(_, much)| *much)?;
        let others = self.lanes.iter().map(&measure).enumerate().filter(|(other, _)| *other != index);
        Some((number_of(index), most - others.map(|(_, much)| much).max().unwrap_or(0)))
    }

    /// Notes that no processed event of a lane is left up to a place.
    pub(super) fn set_kept_from(&mut self, number: i64, place: i64) {
        if let Some(lane) = index_of(number).and_then(|index| self.lanes.get_mut(index)) {
            lane.kept_from = place;
        }
    }

    /// The number of events of a lane that have not ended.
    pub(super) fn waiting_of(&self, lane: &Lane) -> u64 {
        self.lanes.iter().find(|known| known.lane == *lane).map_or(0, |lane| lane.waiting)
    }

    /// The bytes of the events of a lane that have not ended.
    pub(super) fn waiting_bytes_of(&self, lane: &Lane) -> u64 {
        self.lanes.iter().find(|known| known.lane == *lane).map_or(0, |lane| lane.waiting_bytes)
    }

    /// The events that have not ended, where no lane counts for more than its limit.
    pub(super) fn waiting_within_limits(&self, limits: &LaneLimits) -> u64 {
        self.lanes.iter().map(|lane| lane.waiting.min(limits.of(&lane.lane))).sum()
    }

    /// Counts a failed event.
    pub(super) fn count_failed(&mut self, class: FailureClass) {
        self.counters.failed += 1;
        *self.counters.failed_by_class.entry(class).or_default() += 1;
        self.failed_kept += 1;
    }

    /// The totals as the broker reports them.
    pub(super) fn stats(&self, max_lane_bytes: u64) -> BrokerStats {
        let by_lane =
            |count: fn(&LaneTotal) -> u64| self.lanes.iter().map(|lane| (lane.lane.to_string(), count(lane))).collect();
        BrokerStats {
            counters: self.counters.clone(),
            depth: QueueDepth {
                queued: by_lane(|lane| lane.queued),
                waiting_by_lane: by_lane(|lane| lane.waiting),
                waiting_bytes_by_lane: by_lane(|lane| lane.waiting_bytes),
                failed_bytes_by_lane: BTreeMap::new(),
                max_lane_bytes: Some(max_lane_bytes),
                kept_bytes_by_lane: by_lane(|lane| lane.kept_bytes),
                running: self.running,
                scheduled: self.scheduled,
                processed_kept: self.processed_kept,
                failed_kept: self.failed_kept,
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
            ("processed_kept", signed(self.processed_kept)),
            ("failed_kept", signed(self.failed_kept)),
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
            "processed_kept" => &mut self.processed_kept,
            "failed_kept" => &mut self.failed_kept,
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
        for class in FailureClass::ALL {
            totals.count_failed(class);
        }
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
        StoreTotals {
            running: 9,
            scheduled: 10,
            processed_kept: 11,
            next_number: 12,
            state_keys: 14,
            ..totals.clone()
        }
        .clone_into(&mut totals);
        for name in ["a", "_", "b"] {
            db.execute("INSERT INTO lane (name, queued, waiting) VALUES (?1, 0, 0)", [name]).unwrap();
            totals.lanes.push(LaneTotal {
                waiting: 9,
                waiting_bytes: 90,
                kept: 4,
                kept_bytes: 40,
                ..LaneTotal::new(name.parse().unwrap())
            });
        }
        totals.add_queued(2, 5);
        totals.add_queued(2, -2);
        totals.save(&empty, &db).unwrap();
        assert_eq!(StoreTotals::load(&db).unwrap(), totals);
        assert_eq!(totals.waiting(), 3 + 9 + 10);
        assert_eq!(totals.lane_number(&"b".parse().unwrap()), Some(3));
    }
}
