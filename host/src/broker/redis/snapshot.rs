//! Reads everything that another store can go on with, part by part, by scripts that write nothing.
//!
//! A snapshot is not of one moment. What plugins keep is read before the events, so that what is settled meanwhile may be
//! missing from it. Streams are read forwards, in the direction in which events move: lanes, then what is
//! due, then what failed, and at the end what came to the lanes meanwhile. So a store that is worked on is read nearly
//! whole, with a few events twice; one that is at rest is read whole, each event once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;

use super::core::RedisCore;
use super::entry::{read_fields, read_record};
use super::fault::CallFailure;
use super::{codec, reply};
use crate::broker::{Error, ExportedEvent, ExportedKey, Lane, SnapshotItem, SnapshotPart, SnapshotReader};
use crate::event::{EventId, EventRecord, Idempotency, Timestamp};

/// The most things of one part, and about the most bytes: Redis does nothing else while it puts them together.
const MAX_ITEMS: usize = 100;
const MAX_PART_BYTES: usize = 2 * 1024 * 1024;
/// Keys of the whole server that are looked at for one part.
const MAX_SCANNED: usize = 1_000;
/// The characters of an event's id, behind which the fingerprint stands in the value of an idempotency key.
const ID_CHARS: usize = 36;

/// What is read next.
#[derive(Debug)]
enum RedisSnapshotPhase {
    /// Idempotency keys from a cursor of Redis's.
    Keys(u64),
    /// What the plugin of this place keeps, from a cursor of Redis's.
    State(usize, u64),
    /// The lane of this place.
    Lane(usize),
    /// What is due, behind this event and its due time.
    Due(String, String),
    /// What failed, behind this entry.
    Failed(String),
    /// What came meanwhile to the lane of this place.
    Late(usize),
    End,
}

/// A snapshot under way.
pub(super) struct RedisSnapshot {
    core: Arc<RedisCore>,
    phase: RedisSnapshotPhase,
    /// The plugins that keep something.
    spaces: Vec<String>,
    /// The lanes, each with the last entry that was read.
    lanes: Vec<(Lane, String)>,
    expected_events: u64,
}

impl RedisSnapshot {
    /// Begins with the lanes that there are.
    pub(super) async fn begin(core: Arc<RedisCore>) -> Result<Self, CallFailure> {
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(core.keys.lanes().as_ref());
        let names = reply::array(core.link.command(&ask).await?)?;
        let names = names.into_iter().map(reply::text).collect::<Result<Vec<_>, _>>()?;
        let mut lanes: Vec<Lane> = names.iter().filter_map(|name| name.parse().ok()).collect();
        lanes.sort();
        let mut expected_events = 0;
        let streams = lanes.iter().map(|lane| core.keys.lane(lane)).chain([core.keys.failed().clone()]);
        for (name, key) in streams.map(|key| ("XLEN", key)).chain([("ZCARD", core.keys.fixed()[2].clone())]) {
            let mut ask = redis::cmd(name);
            ask.arg(key.as_ref());
            expected_events += reply::count(&core.link.command(&ask).await?)?;
        }
        let lanes = lanes.into_iter().map(|lane| (lane, String::new())).collect();
        let spaces = core.state_spaces().await?;
        Ok(Self { core, phase: RedisSnapshotPhase::Keys(0), spaces, lanes, expected_events })
    }

    async fn keys(&mut self, cursor: u64) -> Result<SnapshotPart, Error> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(self.core.keys.idempotency_pattern()).arg("COUNT").arg(MAX_SCANNED);
        let [next, names] = reply::tuple(self.core.link.command(&scan).await?)?;
        let next = reply::count(&next)?;
        let mut call = self.core.script(&self.core.scripts.snapshot_keys);
        let mut keys = Vec::new();
        for name in reply::array(names)? {
            let name = reply::bytes(name)?.unwrap_or_default();
            if let Some(key) = self.core.keys.idempotency_of(&name) {
                keys.push(key);
                call.push_key(name);
            }
        }
        let mut part = SnapshotPart::default();
        if !keys.is_empty() {
            let rows = reply::array(self.core.link.call(&call).await?)?;
            part.items.extend(keys.into_iter().zip(rows).filter_map(|(key, row)| read_key(key, row).ok().flatten()));
        }
        self.phase = if next == 0 { RedisSnapshotPhase::State(0, 0) } else { RedisSnapshotPhase::Keys(next) };
        Ok(part)
    }

    /// A part of the lane of this place; `None` when nothing is left of it.
    async fn lane(&mut self, place: usize) -> Result<Option<SnapshotPart>, Error> {
        let Some((lane, last)) = self.lanes.get(place).cloned() else { return Ok(None) };
        let entries = self.entries(self.core.keys.lane(&lane), &last).await?;
        let Some(StreamEntry { entry, .. }) = entries.last() else { return Ok(None) };
        self.lanes[place].1.clone_from(entry);
        let mut part = SnapshotPart::default();
        for StreamEntry { entry, record, deliveries } in entries {
            match record {
                Ok(mut record) => {
                    record.attempts_made = record.attempts_made.saturating_add(deliveries);
                    part.items.push(SnapshotItem::Waiting(ExportedEvent { record, lane: lane.clone(), due: None }));
                }
                Err(why) => part.unreadable.push(format!("entry {entry} of lane {lane}: {why}")),
            }
        }
        Ok(Some(part))
    }

    async fn due(&mut self, last: &str, due: &str) -> Result<Option<SnapshotPart>, Error> {
        let call = self.core.script(&self.core.scripts.snapshot_due).text(last).text(due);
        let call = call.number(MAX_ITEMS).number(MAX_PART_BYTES);
        let rows = reply::array(self.core.link.call(&call).await?)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut part = SnapshotPart::default();
        for row in rows {
            let [id, due, raw] = reply::tuple(row)?;
            let (id, due_ms) = (reply::text(id)?, reply::int(&due)?);
            match read_parked(&reply::bytes(raw)?.unwrap_or_default()) {
                Ok((lane, record)) => {
                    let due = Some(Timestamp::from_unix_ms(due_ms));
                    part.items.push(SnapshotItem::Waiting(ExportedEvent { record, lane, due }));
                }
                Err(why) => part.unreadable.push(format!("{id}, which is due later: {why}")),
            }
            self.phase = RedisSnapshotPhase::Due(id, reply::text(due)?);
        }
        Ok(Some(part))
    }

    async fn failed(&mut self, last: &str) -> Result<Option<SnapshotPart>, Error> {
        let entries = self.entries(self.core.keys.failed().clone(), last).await?;
        let Some(StreamEntry { entry, .. }) = entries.last() else { return Ok(None) };
        self.phase = RedisSnapshotPhase::Failed(entry.clone());
        let mut part = SnapshotPart::default();
        for StreamEntry { entry, record, .. } in entries {
            match record {
                Ok(record) if record.end.as_ref().is_some_and(|end| end.failure.is_some()) => {
                    part.items.push(SnapshotItem::Failed(record));
                }
                Ok(_) => part.unreadable.push(format!("entry {entry} of the failed events: it has no failure")),
                Err(why) => part.unreadable.push(format!("entry {entry} of the failed events: {why}")),
            }
        }
        Ok(Some(part))
    }

    async fn entries(&self, stream: Bytes, last: &str) -> Result<Vec<StreamEntry>, Error> {
        let mut call = self.core.script(&self.core.scripts.snapshot_stream);
        call.push_key(stream);
        let call = call.text(last).number(MAX_ITEMS).number(MAX_PART_BYTES);
        let rows = reply::array(self.core.link.call(&call).await?)?;
        let read = |row| {
            let [entry, fields, deliveries] = reply::tuple(row)?;
            let record = read_record(&read_fields(fields)?).map_err(|error| error.to_string());
            let deliveries = u32::try_from(reply::count(&deliveries)?).unwrap_or(u32::MAX);
            Ok::<_, CallFailure>(StreamEntry { entry: reply::text(entry)?, record, deliveries })
        };
        Ok(rows.into_iter().map(read).collect::<Result<_, _>>()?)
    }
}

#[async_trait]
impl SnapshotReader for RedisSnapshot {
    fn expected_events(&self) -> u64 {
        self.expected_events
    }

    async fn next(&mut self) -> Result<Option<SnapshotPart>, Error> {
        loop {
            let (part, following) = match &self.phase {
                RedisSnapshotPhase::Keys(cursor) => return self.keys(*cursor).await.map(Some),
                RedisSnapshotPhase::State(place, cursor) => {
                    let Some(plugin) = self.spaces.get(*place) else {
                        self.phase = RedisSnapshotPhase::Lane(0);
                        continue;
                    };
                    let (part, next) = self.core.state_part(plugin, *cursor).await?;
                    self.phase = if next == 0 {
                        RedisSnapshotPhase::State(place + 1, 0)
                    } else {
                        RedisSnapshotPhase::State(*place, next)
                    };
                    return Ok(Some(part));
                }
                RedisSnapshotPhase::Lane(place) if *place < self.lanes.len() => {
                    let place = *place;
                    (self.lane(place).await?, RedisSnapshotPhase::Lane(place + 1))
                }
                RedisSnapshotPhase::Lane(_) => (None, RedisSnapshotPhase::Due(String::new(), String::new())),
                RedisSnapshotPhase::Due(last, due) => {
                    let (last, due) = (last.clone(), due.clone());
                    (self.due(&last, &due).await?, RedisSnapshotPhase::Failed(String::new()))
                }
                RedisSnapshotPhase::Failed(last) => {
                    let last = last.clone();
                    (self.failed(&last).await?, RedisSnapshotPhase::Late(0))
                }
                RedisSnapshotPhase::Late(place) if *place < self.lanes.len() => {
                    let place = *place;
                    (self.lane(place).await?, RedisSnapshotPhase::Late(place + 1))
                }
                RedisSnapshotPhase::Late(_) | RedisSnapshotPhase::End => (None, RedisSnapshotPhase::End),
            };
            match part {
                Some(part) => return Ok(Some(part)),
                None => self.phase = following,
            }
            if matches!(self.phase, RedisSnapshotPhase::End) {
                return Ok(None);
            }
        }
    }
}

/// An entry of a stream.
struct StreamEntry {
    entry: String,
    record: Result<EventRecord, String>,
    deliveries: u32,
}

/// The lane and the record of an event that is due later.
fn read_parked(raw: &Bytes) -> Result<(Lane, EventRecord), String> {
    let cut = raw.iter().position(|byte| *byte == b'\n').ok_or("it is not there")?;
    let lane = std::str::from_utf8(&raw[..cut]).ok().and_then(|name| name.parse().ok());
    let record = codec::decode(&raw.slice(cut + 1..)).map_err(|error| error.to_string())?;
    Ok((lane.unwrap_or_else(Lane::unrouted), record))
}

/// What is remembered under a key; `None` if its window ended in between.
fn read_key(key: [u8; 32], row: Value) -> Result<Option<SnapshotItem>, CallFailure> {
    if !matches!(row, Value::Array(_)) {
        return Ok(None);
    }
    let [value, until_ms] = reply::tuple(row)?;
    let value = reply::bytes(value)?.unwrap_or_default();
    let (Some(id), Some(fingerprint)) = (value.get(..ID_CHARS), value.get(ID_CHARS..)) else { return Ok(None) };
    let id = std::str::from_utf8(id).ok().and_then(|id| id.parse::<EventId>().ok());
    let (Some(id), Ok(fingerprint)) = (id, <[u8; 32]>::try_from(fingerprint)) else { return Ok(None) };
    let until = Timestamp::from_unix_ms(reply::int(&until_ms)?);
    Ok(Some(SnapshotItem::Key(ExportedKey { idempotency: Idempotency { key, fingerprint }, id, until })))
}
