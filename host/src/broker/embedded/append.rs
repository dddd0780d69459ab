//! Appends events: all of a request or none, and each idempotency key once.
//!
//! A request is checked as a whole before its first row is written. So a refused request does not roll back the other
//! requests of its transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use crate::broker::key_share::find_lane_beyond_share;
use crate::broker::lane_bytes::{ATTEMPTS_ROOM_BYTES, lane_level_bytes};
use crate::broker::{AcceptedEvent, AppendRequest, Error, Lane};
use crate::event::{DeliveryStart, EventId, FailureClass, Idempotency};

use super::bulk_insert::BulkRow;
use super::columns::{BodyColumns, DataColumn, StoryColumns};
use super::event_state;
use super::row_size::{IDEMPOTENCY_KEY_BYTES, row_bytes, signed};
use super::step::WriteContext;
use super::totals::LaneTotal;

/// An event as the writer writes it. The caller prepares it, so that encoding takes none of the writer's time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PreparedEvent {
    body: Arc<BodyColumns>,
    story: Option<StoryColumns>,
    lane: Lane,
    start: DeliveryStart,
    idempotency: Option<Idempotency>,
}

impl PreparedEvent {
    /// About how many bytes the writer writes for the event.
    pub(super) fn size_bytes(&self) -> usize {
        self.row_bytes() as usize
    }

    /// The bytes that the event counts for while it waits.
    fn row_bytes(&self) -> u64 {
        row_bytes(self.body.size_bytes(), self.story.as_ref().map_or(0, StoryColumns::size_bytes))
    }
}

impl From<&AppendRequest> for PreparedEvent {
    fn from(append: &AppendRequest) -> Self {
        Self {
            body: Arc::new(BodyColumns::encode(&append.record.event)),
            story: StoryColumns::encode(&append.record),
            lane: append.lane.clone(),
            start: append.start,
            idempotency: append.idempotency.clone(),
        }
    }
}

/// Appends the events of a request.
///
/// # Errors
/// The inner `Result` fails with [`Error::Conflict`], [`Error::LaneFull`], [`Error::LaneHeavy`], [`Error::KeysFull`],
/// [`Error::Full`] or [`Error::NoRoom`]; then nothing was written.
pub(super) fn append(
    step: &mut WriteContext<'_>,
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
            None => find_idempotency_key(step, key)?.map(|(id, first)| (id, first == *fingerprint)),
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
        let counted = || totals.waiting_within_limits(limits);
        let waiting_of = |lane: &Lane| totals.lane_named(lane).map_or(0, |lane| lane.waiting.events);
        if let Err(full) = limits.check(&wanted, waiting_of, totals.waiting(), counted) {
            return Ok(Err(full));
        }
        let stored_in_all = totals.stored_bytes();
        for lane in wanted.keys() {
            let of_lane = events.iter().zip(&known).filter(|(event, known)| known.is_none() && event.lane == **lane);
            let more: u64 = of_lane.map(|(event, _)| event.row_bytes() + ATTEMPTS_ROOM_BYTES).sum();
            let known = totals.lane_named(lane);
            let (waiting_bytes, failed_bytes) = known.map_or((0, 0), LaneTotal::stored_bytes);
            let stored_bytes = waiting_bytes.saturating_add(failed_bytes);
            let lanes = totals.lanes.len() as u64 + u64::from(known.is_none());
            let max_lane_bytes = step.options.max_waiting_bytes;
            let limit_bytes = lane_level_bytes(max_lane_bytes, step.share_bytes, stored_in_all, lanes);
            if stored_bytes > 0 && stored_bytes.saturating_add(more) > limit_bytes {
                let lane = (*lane).clone();
                return Ok(Err(Error::LaneHeavy { lane, waiting_bytes, failed_bytes, limit_bytes }));
            }
        }
        if let Err(full) = check_keys(step, events, &in_request) {
            return Ok(Err(full));
        }
        if let Some(shortage) = step.no_room {
            return Ok(Err(Error::NoRoom(shortage.to_owned())));
        }
    }
    let mut accepted = Vec::with_capacity(events.len());
    for (event, known) in events.iter().zip(known) {
        let id = known.unwrap_or(event.body.id);
        let duplicate = known.is_some() || !insert_waiting(step, event)?;
        match duplicate {
            true => step.totals.counters.duplicates += 1,
            false => step.totals.counters.accepted += 1,
        }
        accepted.push(AcceptedEvent { id, duplicate });
    }
    Ok(Ok(accepted))
}

/// Checks whether the lanes of these events may have their new idempotency keys, each with the id of its event.
fn check_keys(
    step: &WriteContext<'_>,
    events: &[PreparedEvent],
    new: &HashMap<&[u8; 32], (EventId, &[u8; 32])>,
) -> Result<(), Error> {
    if new.is_empty() {
        return Ok(());
    }
    let mut wanted: BTreeMap<&Lane, u64> = BTreeMap::new();
    for event in events {
        let key = event.idempotency.as_ref().and_then(|idempotency| new.get(&idempotency.key));
        if key.is_some_and(|(id, _)| *id == event.body.id) {
            *wanted.entry(&event.lane).or_default() += 1;
        }
    }
    let limit_bytes = step.options.retention.idempotency_max_bytes;
    let kept = step.totals.lanes.iter().map(|lane| (&lane.lane, lane.idempotency_keys));
    let Some(lane) = find_lane_beyond_share(limit_bytes / IDEMPOTENCY_KEY_BYTES, kept, &wanted) else { return Ok(()) };
    let lane_keys = step.totals.lane_named(lane).map_or(0, |lane| lane.idempotency_keys);
    Err(Error::KeysFull {
        lane: lane.clone(),
        lane_bytes: lane_keys.saturating_mul(IDEMPOTENCY_KEY_BYTES),
        all_bytes: step.totals.idempotency_keys().saturating_mul(IDEMPOTENCY_KEY_BYTES),
        limit_bytes,
    })
}

/// Appends the events that a handler published, in the step that settles its delivery. No limit applies.
pub(super) fn publish(step: &mut WriteContext<'_>, events: &[PreparedEvent]) -> rusqlite::Result<()> {
    for event in events {
        let is_known = match &event.idempotency {
            Some(idempotency) => find_idempotency_key(step, &idempotency.key)?.is_some(),
            None => false,
        };
        if !is_known && insert_waiting(step, event)? {
            step.totals.counters.published += 1;
        }
    }
    Ok(())
}

/// Returns the number of a lane, and creates the lane if it is new.
pub(super) fn ensure_lane(step: &mut WriteContext<'_>, lane: &Lane) -> rusqlite::Result<i64> {
    if let Some(number) = step.totals.lane_number(lane) {
        return Ok(number);
    }
    let number = step.totals.add_lane(lane.clone());
    let mut insert = step.db.prepare_cached("INSERT INTO lane (number, name, queued) VALUES (?1, ?2, 0)")?;
    insert.execute((number, lane.as_str()))?;
    Ok(number)
}

/// Writes a new event that waits. Returns false and writes nothing if its id exists already; in bulk mode that shows
/// only when the bulk is written.
pub(super) fn insert_waiting(step: &mut WriteContext<'_>, event: &PreparedEvent) -> rusqlite::Result<bool> {
    let PreparedEvent { body, story, .. } = event;
    let due_ms = match event.start {
        DeliveryStart::Now | DeliveryStart::InMs(0) => None,
        DeliveryStart::InMs(delay_ms) => Some(due_ms(step.now_ms, delay_ms)),
        DeliveryStart::At(time) => Some(time.unix_ms()).filter(|due_ms| *due_ms > step.now_ms),
    };
    let lane = ensure_lane(step, &event.lane)?;
    let (state, due) = due_ms.map_or((event_state::QUEUED, None), |due_ms| (event_state::DUE, Some(due_ms)));
    if story.is_none()
        && let Some(bulk) = &mut step.bulk
    {
        let number = step.totals.take_number();
        let row = BulkRow { number, state, lane, place: due.unwrap_or(number), body: body.clone() };
        bulk.push(row, step.db)?;
    } else if !insert_event(step, body, story.as_ref(), &Placement { state, lane, due, ended: None })? {
        return Ok(false);
    }
    if let Some(Idempotency { key, fingerprint }) = &event.idempotency {
        let window_ms = i64::try_from(step.options.retention.idempotency_ms).unwrap_or(i64::MAX);
        step.db
            .prepare_cached("INSERT INTO idempotency (key, fingerprint, id, until, lane) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![key, fingerprint, body.id.as_bytes(), step.now_ms.saturating_add(window_ms), lane])?;
        step.totals.add_idempotency_keys(lane, 1);
    }
    step.totals.add(lane, |lane| &mut lane.waiting, 1, signed(event.row_bytes()));
    match due_ms {
        None => step.totals.add_queued(lane, 1),
        Some(_) => step.totals.scheduled += 1,
    }
    Ok(true)
}

/// Where a new event stands. The column `place` holds `due`, or the number of the event if it is not delayed.
pub(super) struct Placement {
    pub(super) state: i64,
    pub(super) lane: i64,
    pub(super) due: Option<i64>,
    /// The class of its failure and the time of its end, in Unix milliseconds.
    pub(super) ended: Option<(FailureClass, i64)>,
}

/// Writes the rows of an event. Returns false and writes nothing if its id exists already.
pub(super) fn insert_event(
    step: &mut WriteContext<'_>,
    body: &BodyColumns,
    story: Option<&StoryColumns>,
    placement: &Placement,
) -> rusqlite::Result<bool> {
    let number = step.totals.take_number();
    let inserted = step.statements.insert_event.execute(params![
        number,
        body.id.as_bytes(),
        placement.state,
        placement.lane,
        placement.due.unwrap_or(number),
        body.event_type.as_str(),
        story.map(|story| story.checksum),
        story.map(|story| &story.text),
        DataColumn(story.and_then(|story| story.result.as_ref())),
        placement.ended.map(|(_, at_ms)| at_ms),
        placement.ended.map(|(class, _)| class.as_str()),
    ])?;
    if inserted == 1 {
        let data = DataColumn(body.data.as_ref());
        step.statements.insert_body.execute(params![number, body.head, data, body.checksum])?;
    }
    Ok(inserted == 1)
}

/// The time `delay_ms` from now, plus one millisecond: `now_ms` is rounded down, and no event may be due early.
pub(super) fn due_ms(now_ms: i64, delay_ms: u64) -> i64 {
    now_ms.saturating_add(i64::try_from(delay_ms).unwrap_or(i64::MAX)).saturating_add(1)
}

/// The first event with an idempotency key and its fingerprint. Deletes the key if its window is over.
pub(super) fn find_idempotency_key(
    step: &mut WriteContext<'_>,
    key: &[u8; 32],
) -> rusqlite::Result<Option<(EventId, [u8; 32])>> {
    let found = step
        .db
        .prepare_cached("SELECT id, fingerprint, until FROM idempotency WHERE key = ?1")?
        .query_row([key], |row| Ok(((EventId::from_bytes(row.get(0)?), row.get(1)?), row.get::<_, i64>(2)?)))
        .optional()?;
    match found {
        Some((first, until)) if until > step.now_ms => Ok(Some(first)),
        None => Ok(None),
        Some(_) => {
            let mut delete = step.db.prepare_cached("DELETE FROM idempotency WHERE key = ?1 RETURNING lane")?;
            let lane = delete.query_row([key], |row| row.get(0))?;
            step.totals.add_idempotency_keys(lane, -1);
            Ok(None)
        }
    }
}
