//! Takes events in: all of a request or none, each once by its idempotency key.
//!
//! Everything that may refuse is looked at before the first row is written, so that a refused request costs its
//! neighbors in the same transaction nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use crate::broker::{AcceptedEvent, AppendRequest, Error, Lane};
use crate::event::{DeliveryStart, EventId, FailureClass, Idempotency};

use super::bulk::BulkRow;
use super::columns::{BodyColumns, DataColumn, StoryColumns};
use super::state;
use super::writer::WriteStep;

/// Writes where an event stands, unless its id is there already.
pub(super) const INSERT_EVENT: &str = "INSERT INTO event (number, id, state, lane, place, deliveries, type, checksum, \
    story, result, ended_at, class) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO NOTHING";
/// Writes what was accepted.
pub(super) const INSERT_BODY: &str = "INSERT INTO body (number, head, data, checksum) VALUES (?1, ?2, ?3, ?4)";

/// What an event takes beside its head and its payload, about.
pub(super) const ROW_BYTES: u64 = 200;

/// An event in the form in which it is written; made before the writer is asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PreparedEvent {
    body: Arc<BodyColumns>,
    story: Option<StoryColumns>,
    lane: Lane,
    start: DeliveryStart,
    idempotency: Option<Idempotency>,
}

impl PreparedEvent {
    /// About how much is written for it.
    pub(super) fn size_bytes(&self) -> usize {
        let BodyColumns { head, data, .. } = &*self.body;
        ROW_BYTES as usize + head.len() + data.as_ref().map_or(0, |data| data.bytes.len())
    }
}

impl PreparedEvent {
    /// What it counts for while it waits.
    fn row_bytes(&self) -> u64 {
        row_bytes(self.body.data.as_ref().map_or(0, |data| data.bytes.len()))
    }
}

/// What an event counts for while it waits, with a payload of so many bytes.
pub(super) fn row_bytes(data_bytes: usize) -> u64 {
    ROW_BYTES.saturating_add(data_bytes as u64)
}

/// SQLite knows signed numbers only. No size gets so far.
pub(super) fn signed(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).unwrap_or(i64::MAX)
}

impl From<&AppendRequest> for PreparedEvent {
    fn from(append: &AppendRequest) -> Self {
        Self {
            body: Arc::new(BodyColumns::of(&append.record.event)),
            story: StoryColumns::of(&append.record),
            lane: append.lane.clone(),
            start: append.start,
            idempotency: append.idempotency.clone(),
        }
    }
}

/// Appends the events of a request.
///
/// Refuses with [`Error::Conflict`], [`Error::LaneFull`], [`Error::Full`] or [`Error::NoRoom`], each before anything was written.
pub(super) fn append(
    step: &mut WriteStep<'_>,
    events: &[PreparedEvent],
) -> rusqlite::Result<Result<Vec<AcceptedEvent>, Error>> {
    let mut known: Vec<Option<EventId>> = Vec::with_capacity(events.len());
    let mut conflicts = Vec::new();
    let mut in_request: HashMap<&[u8; 32], (EventId, &[u8; 32])> = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        let Some(Idempotency { key, fingerprint }) = &event.idempotency else {
            known.push(None);
            continue;
        };
        let first = match in_request.get(key) {
            Some((id, first)) => Some((*id, *first == fingerprint)),
            None => remembered(step, key)?.map(|(id, first)| (id, first == *fingerprint)),
        };
        match first {
            Some((id, true)) => known.push(Some(id)),
            Some((_, false)) => {
                conflicts.push(index);
                known.push(None);
            }
            None => {
                in_request.insert(key, (event.body.id, fingerprint));
                known.push(None);
            }
        }
    }
    if !conflicts.is_empty() {
        return Ok(Err(Error::Conflict(conflicts)));
    }
    if known.iter().any(Option::is_none) {
        let mut wanted: BTreeMap<&Lane, u64> = BTreeMap::new();
        for (event, _) in events.iter().zip(&known).filter(|(_, known)| known.is_none()) {
            *wanted.entry(&event.lane).or_default() += 1;
        }
        let (totals, limits) = (&*step.totals, step.limits);
        let counted = || totals.counted(limits);
        if let Err(full) = limits.check(&wanted, |lane| totals.waiting_of(lane), totals.waiting(), counted) {
            return Ok(Err(full));
        }
        for lane in wanted.keys() {
            let of_lane = events.iter().zip(&known).filter(|(event, known)| known.is_none() && event.lane == **lane);
            let more: u64 = of_lane.map(|(event, _)| event.row_bytes()).sum();
            let (waiting_bytes, limit_bytes) = (totals.waiting_bytes_of(lane), step.options.max_waiting_bytes);
            if waiting_bytes > 0 && waiting_bytes.saturating_add(more) > limit_bytes {
                return Ok(Err(Error::LaneHeavy { lane: (*lane).clone(), waiting_bytes, limit_bytes }));
            }
        }
        if let Some(shortage) = step.no_room {
            return Ok(Err(Error::NoRoom(shortage.to_owned())));
        }
    }
    let mut accepted = Vec::with_capacity(events.len());
    for (event, known) in events.iter().zip(known) {
        let id = known.unwrap_or(event.body.id);
        let duplicate = known.is_some() || !insert(step, event)?;
        match duplicate {
            true => step.totals.counters.duplicates += 1,
            false => step.totals.counters.accepted += 1,
        }
        accepted.push(AcceptedEvent { id, duplicate });
    }
    Ok(Ok(accepted))
}

/// Appends what a handler published, by no limit, in the step that settles its attempt.
pub(super) fn publish(step: &mut WriteStep<'_>, events: &[PreparedEvent]) -> rusqlite::Result<()> {
    for event in events {
        let is_known = match &event.idempotency {
            Some(idempotency) => remembered(step, &idempotency.key)?.is_some(),
            None => false,
        };
        if !is_known && insert(step, event)? {
            step.totals.counters.published += 1;
        }
    }
    Ok(())
}

/// The number of a lane, which is made if it is new.
pub(super) fn lane_number(step: &mut WriteStep<'_>, lane: &Lane) -> rusqlite::Result<i64> {
    if let Some(number) = step.totals.lane_number(lane) {
        return Ok(number);
    }
    let number = step.totals.add_lane(lane.clone());
    let mut insert = step.db.prepare_cached("INSERT INTO lane (number, name, queued) VALUES (?1, ?2, 0)")?;
    insert.execute((number, lane.as_str()))?;
    Ok(number)
}

/// Writes an event that is to be worked on; false, with nothing written, if its id is there already. Where events are
/// written in bulk that is found out later.
pub(super) fn insert(step: &mut WriteStep<'_>, event: &PreparedEvent) -> rusqlite::Result<bool> {
    let PreparedEvent { body, story, .. } = event;
    let due_ms = match event.start {
        DeliveryStart::Now | DeliveryStart::InMs(0) => None,
        DeliveryStart::InMs(delay_ms) => Some(due_ms(step.now_ms, delay_ms)),
        DeliveryStart::At(time) => Some(time.unix_ms()).filter(|due_ms| *due_ms > step.now_ms),
    };
    let lane = lane_number(step, &event.lane)?;
    let (state, due) = due_ms.map_or((state::QUEUED, None), |due_ms| (state::DUE, Some(due_ms)));
    if story.is_none()
        && let Some(bulk) = &mut step.bulk
    {
        let number = step.totals.next_number();
        let row = BulkRow { number, state, lane, place: due.unwrap_or(number), body: body.clone() };
        bulk.push(row, step.db)?;
    } else if !insert_row(step, body, story.as_ref(), &Placement { state, lane, due, ended: None })? {
        return Ok(false);
    }
    if let Some(Idempotency { key, fingerprint }) = &event.idempotency {
        let window_ms = i64::try_from(step.options.retention.idempotency_ms).unwrap_or(i64::MAX);
        step.db
            .prepare_cached("REPLACE INTO idempotency (key, fingerprint, id, until) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![key, fingerprint, body.id.as_bytes(), step.now_ms.saturating_add(window_ms)])?;
    }
    step.totals.waits(lane, 1, signed(event.row_bytes()));
    match due_ms {
        None => step.totals.queued(lane, 1),
        Some(_) => step.totals.scheduled += 1,
    }
    Ok(true)
}

/// Where a new event is put. Its place is the time when it is due, else the next number.
pub(super) struct Placement {
    pub(super) state: i64,
    pub(super) lane: i64,
    pub(super) due: Option<i64>,
    /// As what it failed, and when.
    pub(super) ended: Option<(FailureClass, i64)>,
}

/// Writes the rows of an event; false, with nothing written, if its id is there already.
pub(super) fn insert_row(
    step: &mut WriteStep<'_>,
    body: &BodyColumns,
    story: Option<&StoryColumns>,
    spot: &Placement,
) -> rusqlite::Result<bool> {
    let number = step.totals.next_number();
    let inserted = step.often.insert_event.execute(params![
        number,
        body.id.as_bytes(),
        spot.state,
        spot.lane,
        spot.due.unwrap_or(number),
        body.event_type.as_str(),
        story.map(|story| story.checksum),
        story.map(|story| &story.text),
        DataColumn(story.and_then(|story| story.result.as_ref())),
        spot.ended.map(|(_, at_ms)| at_ms),
        spot.ended.map(|(class, _)| class.as_str()),
    ])?;
    if inserted == 1 {
        let data = DataColumn(body.data.as_ref());
        step.often.insert_body.execute(params![number, body.head, data, body.checksum])?;
    }
    Ok(inserted == 1)
}

/// When something is due so long from now. The clock has run on since it was read to the millisecond before, and nothing
/// may be early, hence one more.
pub(super) fn due_ms(now_ms: i64, delay_ms: u64) -> i64 {
    now_ms.saturating_add(i64::try_from(delay_ms).unwrap_or(i64::MAX)).saturating_add(1)
}

/// The event that was appended first with a key, and its fingerprint, if that was within the window.
fn remembered(step: &WriteStep<'_>, key: &[u8; 32]) -> rusqlite::Result<Option<(EventId, [u8; 32])>> {
    step.db
        .prepare_cached("SELECT id, fingerprint FROM idempotency WHERE key = ?1 AND until > ?2")?
        .query_row((key, step.now_ms), |row| Ok((EventId::from_bytes(row.get(0)?), row.get(1)?)))
        .optional()
}
