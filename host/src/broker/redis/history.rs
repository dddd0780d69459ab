//! Looking at events: one in whatever state, and totals. And putting failed ones back to work.
//!
//! An event is in one place at a time, and the index knows which. Nothing here changes anything but [`Core::replay`].

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::Value;

use super::codec;
use super::core::RedisCore;
use super::fault::CallFailure;
use super::reply;
use crate::broker::{BrokerStats, Error, EventCounters, FoundEvent, Lane, QueueDepth, ReplayOutcome};
use crate::event::{EventId, EventState, FailureClass, Timestamp};

/// An event as it was found, and its entry where it has one.
struct LocatedEvent {
    found: FoundEvent,
    entry: String,
}

impl RedisCore {
    /// See [`crate::broker::EventLog::find_event`].
    pub(super) async fn event(&self, id: EventId) -> Result<Option<FoundEvent>, Error> {
        Ok(self.locate(id).await?.map(|located| located.found))
    }

    async fn locate(&self, id: EventId) -> Result<Option<LocatedEvent>, Error> {
        let (_, answer) = self
            .with_all_lanes(|book| {
                self.script(&self.scripts.find)
                    .number(book.set_size)
                    .text(&id.to_string())
                    .named_lanes(&self.keys, &book.lanes)
            })
            .await?;
        let [kind, blob, due_ms, entry] = reply::tuple(answer)?;
        let Some(blob) = reply::bytes(blob)? else { return Ok(None) };
        let record = codec::decode(&blob).map_err(|error| Error::Misconfigured(error.to_string()))?;
        let state = match reply::text(kind)?.as_str() {
            "q" => EventState::Queued,
            "r" => EventState::Running,
            "p" => EventState::Processed,
            "f" => EventState::Failed,
            _ => record.state_until_due(),
        };
        let is_due_later = matches!(state, EventState::Scheduled | EventState::Retrying);
        let due = is_due_later.then_some(Timestamp::from_unix_ms(reply::int(&due_ms)?));
        Ok(Some(LocatedEvent { found: FoundEvent { record, state, due }, entry: reply::text(entry)? }))
    }

    /// See [`crate::broker::EventLog::replay`].
    pub(super) async fn replay(&self, id: EventId, lane: &Lane) -> Result<ReplayOutcome, Error> {
        self.make_lanes(self.missing_lanes([lane])).await?;
        let Some(located) = self.locate(id).await? else { return Ok(ReplayOutcome::Unknown) };
        if located.found.state != EventState::Failed {
            return Ok(ReplayOutcome::NotFailed(located.found.state));
        }
        let blob =
            codec::encode(&located.found.record.replayed()).map_err(|error| Error::Misconfigured(error.to_string()))?;
        let mut call = self
            .script(&self.scripts.replay)
            .lane_keys(&self.keys, [lane])
            .text(&id.to_string())
            .text(&located.entry)
            .text(lane.as_str());
        call.push_bytes(blob);
        if reply::text(self.link.repeat(&call).await?)? == "D" {
            return Ok(ReplayOutcome::Done);
        }
        // Somebody else replayed it in between.
        Ok(match self.locate(id).await? {
            Some(located) => ReplayOutcome::NotFailed(located.found.state),
            None => ReplayOutcome::Unknown,
        })
    }

    /// See [`crate::broker::EventLog::stats`].
    pub(super) async fn stats(&self) -> Result<BrokerStats, Error> {
        let (book, answer) = self
            .with_all_lanes(|book| {
                self.script(&self.scripts.stats)
                    .lane_keys(&self.keys, &book.lanes)
                    .number(book.set_size)
                    .number(book.lanes.len())
            })
            .await?;
        let [counts, lengths, running, scheduled, done, failed, consumers, alls] = reply::tuple(answer)?;
        let lengths = reply::array(lengths)?.iter().map(reply::count).collect::<Result<Vec<_>, _>>()?;
        let alls = reply::array(alls)?.iter().map(reply::count).collect::<Result<Vec<_>, _>>()?;
        let names = || book.lanes.iter().map(|lane| lane.as_str().to_owned());
        let queued = names().zip(lengths).collect();
        let RedisTotals { counters, state_keys, due, waiting_bytes, kept_bytes } = read_totals(counts)?;
        let max_lane_bytes = self.max_lane_bytes();
        let heavy = waiting_bytes.iter().filter(|(_, waiting)| **waiting > max_lane_bytes);
        let heavy = heavy.filter_map(|(name, waiting)| Some((name.parse().ok()?, *waiting))).collect();
        self.heavy.store(Arc::new(heavy));
        let later = |name: &String| due.get(name).copied().unwrap_or(0);
        let waiting_by_lane = names().zip(alls).map(|(name, all)| {
            let later = later(&name);
            (name, all + later)
        });
        Ok(BrokerStats {
            counters,
            depth: QueueDepth {
                queued,
                waiting_by_lane: waiting_by_lane.collect(),
                waiting_bytes_by_lane: waiting_bytes,
                max_lane_bytes: Some(max_lane_bytes),
                kept_bytes_by_lane: kept_bytes,
                running: reply::count(&running)?,
                scheduled: reply::count(&scheduled)?,
                processed_kept: reply::count(&done)?,
                failed_kept: reply::count(&failed)?,
                state_keys,
                consumers: reply::count(&consumers)?,
            },
        })
    }
}

/// What stands among the totals.
#[derive(Default)]
struct RedisTotals {
    counters: EventCounters,
    /// How many keys plugins have.
    state_keys: u64,
    /// How much of each lane is due later.
    due: BTreeMap<String, u64>,
    /// How many bytes of each lane wait, and how many of its history are kept.
    waiting_bytes: BTreeMap<String, u64>,
    kept_bytes: BTreeMap<String, u64>,
}

fn read_totals(counts: Value) -> Result<RedisTotals, CallFailure> {
    let mut totals = RedisTotals::default();
    let counters = &mut totals.counters;
    for (name, value) in reply::pairs(counts)? {
        let (Ok(name), Ok(value)) = (reply::text(name), reply::int(&value)) else { continue };
        let value = u64::try_from(value).unwrap_or_default();
        match name.as_str() {
            "accepted" => counters.accepted = value,
            "duplicates" => counters.duplicates = value,
            "published" => counters.published = value,
            "processed" => counters.processed = value,
            "failed" => counters.failed = value,
            "retried" => counters.retried = value,
            "replayed" => counters.replayed = value,
            "recovered" => counters.recovered = value,
            "data_losses" => counters.data_losses = value,
            "state_conflicts" => counters.state_conflicts = value,
            "state_keys" => totals.state_keys = value,
            "deferred" => counters.deferred = value,
            other => {
                for (prefix, by_lane) in [
                    ("due:", &mut totals.due),
                    ("bytes:", &mut totals.waiting_bytes),
                    ("kept-bytes:", &mut totals.kept_bytes),
                ] {
                    if let Some(lane) = other.strip_prefix(prefix) {
                        by_lane.insert(lane.to_owned(), value);
                    }
                }
                let class = other.strip_prefix("failed:");
                let class = class.and_then(|word| FailureClass::ALL.into_iter().find(|class| class.as_str() == word));
                if let Some(class) = class {
                    counters.failed_by_class.insert(class, value);
                }
            }
        }
    }
    Ok(totals)
}
