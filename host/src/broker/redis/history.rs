//! Finds events, counts them, and replays or discards failed ones.
//!
//! An event is in one place at a time, and the index names it.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::Value;

use super::capacity::StoreCapacity;
use super::client::StoreClient;
use super::codec;
use super::connection::{CallFailure, reply};
use super::lanes::LaneDirectory;
use crate::broker::{BrokerStats, DiscardOutcome, Error, EventCounters, FoundEvent, Lane, QueueDepth, ReplayOutcome};
use crate::clock;
use crate::event::{EventId, EventRecord, EventState, FailureClass, Timestamp};

/// An event as it was found, and its entry if it has one.
struct LocatedEvent {
    found: FoundEvent,
    entry: String,
}

/// Reads events and totals.
pub(super) struct EventHistory {
    pub(super) client: Arc<StoreClient>,
    pub(super) lanes: Arc<LaneDirectory>,
    pub(super) capacity: Arc<StoreCapacity>,
}

impl EventHistory {
    /// Finds one event in any state.
    pub(super) async fn find_event(&self, id: EventId) -> Result<Option<FoundEvent>, Error> {
        Ok(self.locate_event(id).await?.map(|located| located.found))
    }

    async fn locate_event(&self, id: EventId) -> Result<Option<LocatedEvent>, Error> {
        let client = &self.client;
        let (_, reply) = self
            .lanes
            .call_with_all(|known| {
                let mut call = client
                    .script_call(&client.scripts.find)
                    .number(known.set_size)
                    .text(&id.to_string())
                    .named_lanes(&client.keys, &known.lanes);
                call.push_key(client.keys.discarded());
                call
            })
            .await?;
        let [kind, blob, due_ms, entry] = reply::tuple(reply)?;
        let Some(blob) = reply::bytes(blob)? else { return Ok(None) };
        let record = codec::decode(&blob)?;
        let state = match reply::text(kind)?.as_str() {
            "q" => EventState::Queued,
            "r" => EventState::Running,
            "p" => EventState::Processed,
            "f" => EventState::Failed,
            "x" => EventState::Discarded,
            _ => record.state_until_due(),
        };
        let is_due_later = matches!(state, EventState::Scheduled | EventState::Retrying);
        let due = is_due_later.then_some(Timestamp::from_unix_ms(reply::int(&due_ms)?));
        Ok(Some(LocatedEvent { found: FoundEvent { record, state, due }, entry: reply::text(entry)? }))
    }

    /// Moves a failed event back to a lane.
    pub(super) async fn replay(&self, id: EventId, lane: &Lane) -> Result<ReplayOutcome, Error> {
        self.lanes.make(self.lanes.find_missing([lane])).await?;
        Ok(match self.take_failed(id, Some(lane), EventRecord::replayed).await? {
            Ok(()) => ReplayOutcome::Done,
            Err(Some(state)) => ReplayOutcome::NotFailed(state),
            Err(None) => ReplayOutcome::Unknown,
        })
    }

    /// Ends a failed event for good.
    pub(super) async fn discard(&self, id: EventId, reason: &str) -> Result<DiscardOutcome, Error> {
        let discarded = |record: EventRecord| record.discarded(clock::now(), reason);
        Ok(match self.take_failed(id, None, discarded).await? {
            Ok(()) => DiscardOutcome::Done,
            Err(Some(state)) => DiscardOutcome::NotFailed(state),
            Err(None) => DiscardOutcome::Unknown,
        })
    }

    /// Moves a failed event to a lane, or to the discarded events if there is no lane. An event that cannot move is
    /// answered with its state, or with `None` if it is unknown.
    async fn take_failed(
        &self,
        id: EventId,
        lane: Option<&Lane>,
        change: impl FnOnce(EventRecord) -> EventRecord,
    ) -> Result<Result<(), Option<EventState>>, Error> {
        let located = match self.locate_event(id).await? {
            Some(located) if located.found.state == EventState::Failed => located,
            other => return Ok(Err(other.map(|located| located.found.state))),
        };
        let blob = codec::encode(&change(located.found.record))?;
        let client = &self.client;
        let mut call = client
            .script_call(&client.scripts.take_failed)
            .text(&id.to_string())
            .text(&located.entry)
            .text(lane.map_or("", Lane::as_str));
        call.push_key(lane.map_or_else(|| client.keys.discarded(), |lane| client.keys.lane(lane)));
        call.push_bytes(blob);
        if reply::text(client.link.call_until_known(&call).await?)? == "D" {
            return Ok(Ok(()));
        }
        // Another call took it in between.
        Ok(Err(self.locate_event(id).await?.map(|located| located.found.state)))
    }

    /// Reads the totals, and notes the bytes of each lane for the limits.
    pub(super) async fn read_stats(&self) -> Result<BrokerStats, Error> {
        let client = &self.client;
        let (known, reply) = self
            .lanes
            .call_with_all(|known| {
                client
                    .script_call(&client.scripts.stats)
                    .lane_keys(&client.keys, &known.lanes)
                    .number(known.set_size)
                    .number(known.lanes.len())
            })
            .await?;
        let [counts, lengths, running, scheduled, done, failed, consumers, all_lengths] = reply::tuple(reply)?;
        let lengths = reply::array(lengths)?.iter().map(reply::count).collect::<Result<Vec<_>, _>>()?;
        let all_lengths = reply::array(all_lengths)?.iter().map(reply::count).collect::<Result<Vec<_>, _>>()?;
        let names = || known.lanes.iter().map(|lane| lane.as_str().to_owned());
        let queued = names().zip(lengths).collect();
        let RedisTotals { counters, state_keys, due, waiting_bytes, failed_bytes, kept_bytes } = read_totals(counts)?;
        self.capacity.note_lane_bytes(&waiting_bytes, &failed_bytes);
        let later = |name: &String| due.get(name).copied().unwrap_or(0);
        let waiting_by_lane = names().zip(all_lengths).map(|(name, all)| {
            let later = later(&name);
            (name, all + later)
        });
        Ok(BrokerStats {
            counters,
            depth: QueueDepth {
                queued,
                waiting_by_lane: waiting_by_lane.collect(),
                waiting_bytes_by_lane: waiting_bytes,
                failed_bytes_by_lane: failed_bytes,
                max_lane_bytes: Some(self.capacity.max_lane_bytes()),
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

/// The hash of totals, parsed.
#[derive(Default)]
struct RedisTotals {
    counters: EventCounters,
    /// State keys of all plugins.
    state_keys: u64,
    /// Events that are due later, by lane.
    due: BTreeMap<String, u64>,
    /// Bytes that wait, by lane.
    waiting_bytes: BTreeMap<String, u64>,
    /// Bytes of failed events, by lane.
    failed_bytes: BTreeMap<String, u64>,
    /// Bytes of processed and discarded events, by lane.
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
            "discarded" => counters.discarded = value,
            "recovered" => counters.recovered = value,
            "data_losses" => counters.data_losses = value,
            "state_conflicts" => counters.state_conflicts = value,
            "state_keys" => totals.state_keys = value,
            "deferred" => counters.deferred = value,
            other => {
                let Some((kind, of)) = other.split_once(':') else { continue };
                let by_lane = match kind {
                    "due" => &mut totals.due,
                    "bytes" => &mut totals.waiting_bytes,
                    "failed-bytes" => &mut totals.failed_bytes,
                    "kept-bytes" | "discarded-bytes" => &mut totals.kept_bytes,
                    "failed" => {
                        let class = FailureClass::ALL.into_iter().find(|class| class.as_str() == of);
                        counters.failed_by_class.extend(class.map(|class| (class, value)));
                        continue;
                    }
                    _ => continue,
                };
                *by_lane.entry(of.to_owned()).or_default() += value;
            }
        }
    }
    Ok(totals)
}
