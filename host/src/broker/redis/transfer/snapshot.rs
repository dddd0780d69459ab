//! Exports a store part by part, with commands and scripts that write nothing.
//!
//! A snapshot does not show one moment. Plugin state is read before the events, so it may lack what is settled meanwhile.
//! Events are read in the direction in which they move: lanes, due later, failed, and finally what was added to the lanes
//! meanwhile. So the snapshot of a busy store is nearly complete, with a few events twice. The snapshot of a store at
//! rest is complete, with each event once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;

use crate::broker::redis::client::StoreClient;
use crate::broker::redis::codec;
use crate::broker::redis::connection::{CallFailure, reply};
use crate::broker::redis::entry::{read_fields, read_record};
use crate::broker::{
    Error, ExportedEvent, ExportedKey, ExportedState, Lane, SnapshotItem, SnapshotPart, SnapshotReader,
};
use crate::event::{EventId, EventRecord, Idempotency, Timestamp};

/// The most items of one part and about its most bytes. Redis serves no other client while a script reads them.
const MAX_ITEMS: usize = 100;
const MAX_PART_BYTES: usize = 2 * 1024 * 1024;
/// The keys of the whole server that `SCAN` reads for one part.
const MAX_SCANNED_KEYS: usize = 1_000;
/// The state keys of a plugin that `HSCAN` reads for one part.
const MAX_SCANNED_STATE: usize = 50;
/// The length of an event id. The fingerprint follows it in the value of an idempotency key.
const ID_CHARS: usize = 36;

/// What is read next.
#[derive(Debug)]
enum RedisSnapshotPhase {
    /// Idempotency keys, from a cursor of `SCAN`.
    Keys(u64),
    /// The state of the plugin with this index, from a cursor of `HSCAN`.
    State(usize, u64),
    /// The lane with this index.
    Lane(usize),
    /// Events due later, after this event and its due time.
    Due(String, String),
    /// Failed events, after this entry.
    Failed(String),
    /// What was added meanwhile to the lane with this index.
    Late(usize),
    End,
}

/// A snapshot in progress.
pub struct RedisSnapshot {
    client: Arc<StoreClient>,
    phase: RedisSnapshotPhase,
    /// The plugins that have state.
    plugins: Vec<String>,
    /// The lanes, each with the last entry that was read.
    lanes: Vec<(Lane, String)>,
    expected_events: u64,
}

impl RedisSnapshot {
    /// Begins a snapshot of the lanes that exist now.
    pub async fn begin(client: Arc<StoreClient>) -> Result<Self, CallFailure> {
        let names = client.read_lane_names().await?;
        let mut lanes: Vec<Lane> = names.iter().filter_map(|name| name.parse().ok()).collect();
        lanes.sort();
        let mut expected_events = 0;
        let streams = lanes.iter().map(|lane| client.keys.lane(lane)).chain([client.keys.failed().clone()]);
        for (name, key) in streams.map(|key| ("XLEN", key)).chain([("ZCARD", client.keys.due().clone())]) {
            let mut command = redis::cmd(name);
            command.arg(key.as_ref());
            expected_events += reply::count(&client.link.command(&command).await?)?;
        }
        let lanes = lanes.into_iter().map(|lane| (lane, String::new())).collect();
        let mut command = redis::cmd("SMEMBERS");
        command.arg(client.keys.state_spaces().as_ref());
        let plugins = reply::array(client.link.command(&command).await?)?;
        let plugins = plugins.into_iter().map(reply::text).collect::<Result<_, _>>()?;
        Ok(Self { client, phase: RedisSnapshotPhase::Keys(0), plugins, lanes, expected_events })
    }

    async fn read_keys(&mut self, cursor: u64) -> Result<SnapshotPart, Error> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(self.client.keys.idempotency_pattern()).arg("COUNT").arg(MAX_SCANNED_KEYS);
        let [next, names] = reply::tuple(self.client.link.command(&scan).await?)?;
        let next = reply::count(&next)?;
        let mut call = self.client.script_call(&self.client.scripts.snapshot_keys);
        let mut keys = Vec::new();
        for name in reply::array(names)? {
            let name = reply::bytes(name)?.unwrap_or_default();
            if let Some(key) = self.client.keys.idempotency_of(&name) {
                keys.push(key);
                call.push_key(name);
            }
        }
        let mut part = SnapshotPart::default();
        if !keys.is_empty() {
            let rows = reply::array(self.client.call(&call).await?)?;
            part.items.extend(
                keys.into_iter().zip(rows).filter_map(|(key, row)| read_idempotency_key(key, row).ok().flatten()),
            );
        }
        self.phase = if next == 0 { RedisSnapshotPhase::State(0, 0) } else { RedisSnapshotPhase::Keys(next) };
        Ok(part)
    }

    /// A part of the lane with this index; `None` at its end.
    async fn read_lane(&mut self, place: usize) -> Result<Option<SnapshotPart>, Error> {
        let Some((lane, last)) = self.lanes.get(place).cloned() else { return Ok(None) };
        let entries = self.read_entries(self.client.keys.lane(&lane), &last).await?;
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

    async fn read_due(&mut self, last: &str, due: &str) -> Result<Option<SnapshotPart>, Error> {
        let call = self.client.script_call(&self.client.scripts.snapshot_due).text(last).text(due);
        let call = call.number(MAX_ITEMS).number(MAX_PART_BYTES);
        let rows = reply::array(self.client.call(&call).await?)?;
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

    async fn read_failed(&mut self, last: &str) -> Result<Option<SnapshotPart>, Error> {
        let entries = self.read_entries(self.client.keys.failed().clone(), last).await?;
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

    async fn read_entries(&self, stream: Bytes, last: &str) -> Result<Vec<StreamEntry>, Error> {
        let mut call = self.client.script_call(&self.client.scripts.snapshot_stream);
        call.push_key(stream);
        let call = call.text(last).number(MAX_ITEMS).number(MAX_PART_BYTES);
        let rows = reply::array(self.client.call(&call).await?)?;
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
                RedisSnapshotPhase::Keys(cursor) => return self.read_keys(*cursor).await.map(Some),
                RedisSnapshotPhase::State(place, cursor) => {
                    let Some(plugin) = self.plugins.get(*place) else {
                        self.phase = RedisSnapshotPhase::Lane(0);
                        continue;
                    };
                    let (part, next) = read_state(&self.client, plugin, *cursor).await?;
                    self.phase = if next == 0 {
                        RedisSnapshotPhase::State(place + 1, 0)
                    } else {
                        RedisSnapshotPhase::State(*place, next)
                    };
                    return Ok(Some(part));
                }
                RedisSnapshotPhase::Lane(place) if *place < self.lanes.len() => {
                    let place = *place;
                    (self.read_lane(place).await?, RedisSnapshotPhase::Lane(place + 1))
                }
                RedisSnapshotPhase::Lane(_) => (None, RedisSnapshotPhase::Due(String::new(), String::new())),
                RedisSnapshotPhase::Due(last, due) => {
                    let (last, due) = (last.clone(), due.clone());
                    (self.read_due(&last, &due).await?, RedisSnapshotPhase::Failed(String::new()))
                }
                RedisSnapshotPhase::Failed(last) => {
                    let last = last.clone();
                    (self.read_failed(&last).await?, RedisSnapshotPhase::Late(0))
                }
                RedisSnapshotPhase::Late(place) if *place < self.lanes.len() => {
                    let place = *place;
                    (self.read_lane(place).await?, RedisSnapshotPhase::Late(place + 1))
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

/// An entry of a stream, decoded.
struct StreamEntry {
    entry: String,
    record: Result<EventRecord, String>,
    deliveries: u32,
}

/// Decodes an event that is due later: its lane and its record.
fn read_parked(raw: &Bytes) -> Result<(Lane, EventRecord), String> {
    let line_end = raw.iter().position(|byte| *byte == b'\n').ok_or("it is missing")?;
    let lane = std::str::from_utf8(&raw[..line_end]).ok().and_then(|name| name.parse().ok());
    let record = codec::decode(&raw.slice(line_end + 1..)).map_err(|error| error.to_string())?;
    Ok((lane.unwrap_or_else(Lane::unrouted), record))
}

/// A part of the state of a plugin from a cursor, and the next cursor, which is 0 at the end.
async fn read_state(client: &StoreClient, plugin: &str, cursor: u64) -> Result<(SnapshotPart, u64), CallFailure> {
    let mut scan = redis::cmd("HSCAN");
    scan.arg(client.keys.state_of(plugin).as_ref()).arg(cursor).arg("COUNT").arg(MAX_SCANNED_STATE);
    let [next, pairs] = reply::tuple(client.link.command(&scan).await?)?;
    let mut part = SnapshotPart::default();
    for (key, raw) in reply::pairs(pairs)? {
        let key = reply::text(key)?;
        match read_state_value(raw)? {
            Some((value, until)) => {
                part.items.push(SnapshotItem::State(ExportedState { plugin: plugin.to_owned(), key, value, until }));
            }
            None => part.unreadable.push(format!("the key {key:?} of the plugin {plugin}")),
        }
    }
    Ok((part, reply::count(&next)?))
}

/// A state value and its expiry; `None` if it is damaged.
fn read_state_value(raw: Value) -> Result<Option<(Bytes, Option<Timestamp>)>, CallFailure> {
    let raw = reply::bytes(raw)?.unwrap_or_default();
    let mut words = raw.splitn(3, |byte| *byte == b' ');
    let (Some(version), Some(until), Some(value)) = (words.next(), words.next(), words.next()) else { return Ok(None) };
    let until = std::str::from_utf8(until).ok().and_then(|until| until.parse::<i64>().ok());
    let Some(until) = until.filter(|_| version.iter().all(u8::is_ascii_digit)) else { return Ok(None) };
    Ok(Some((raw.slice_ref(value), (until > 0).then(|| Timestamp::from_unix_ms(until)))))
}

/// Decodes an idempotency key; `None` if it expired meanwhile or is damaged.
fn read_idempotency_key(key: [u8; 32], row: Value) -> Result<Option<SnapshotItem>, CallFailure> {
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
