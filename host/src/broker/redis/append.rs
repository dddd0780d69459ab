//! Appends events: several requests in one call of one script.
//!
//! Each request is appended whole or not at all. When a reply is lost, the same call is made again with the same ids. The
//! script recognizes the ids that it has appended, so each event is appended once.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use redis::Value;

use super::capacity::{IDEMPOTENCY_KEY_BYTES, StoreCapacity};
use super::client::StoreClient;
use super::codec::{self, RecordVersion};
use super::connection::{CallFailure, TroubleKind, reply};
use super::epoch::StoreEpoch;
use super::lanes::{LANE_TRIES, LaneDirectory, LanePlaces, is_lane_missing};
use super::scripts::ScriptCall;
use crate::broker::{AcceptedEvent, AppendRequest, Error, Lane, LaneLimits};
use crate::event::{DeliveryStart, EventId, Idempotency};

/// The most events of one call, unless a single request has more.
const MAX_EVENTS: usize = 100;

/// One request, encoded.
pub(super) struct AppendCall {
    events: Vec<EncodedEvent>,
}

impl AppendCall {
    /// # Errors
    /// See [`EncodedEvent::encode`].
    pub(super) fn encode(events: Vec<AppendRequest>, version: RecordVersion) -> Result<Self, Error> {
        let encode = |event| EncodedEvent::encode(event, version);
        Ok(Self { events: events.into_iter().map(encode).collect::<Result<_, _>>()? })
    }

    /// Its part of [`ScriptCall::MAX_BYTES`]: its bytes, or its number of events where they are small.
    pub(super) fn weight(&self) -> usize {
        let size_bytes = self.events.iter().map(|event| event.blob.len()).sum();
        (self.events.len() * (ScriptCall::MAX_BYTES / MAX_EVENTS)).max(size_bytes)
    }

    /// The answer if all its events are new.
    fn accept_all(&self) -> Vec<AcceptedEvent> {
        self.events.iter().map(|event| AcceptedEvent { id: event.id, duplicate: false }).collect()
    }
}

/// Appends events to their lanes.
pub(super) struct EventAppender {
    pub(super) client: Arc<StoreClient>,
    pub(super) lanes: Arc<LaneDirectory>,
    pub(super) epoch: Arc<StoreEpoch>,
    pub(super) capacity: Arc<StoreCapacity>,
    /// How long an idempotency key is remembered.
    pub(super) idempotency_ms: u64,
}

impl EventAppender {
    /// Fails if no event may be accepted now, or none for one of these lanes.
    pub(super) fn ensure_accepting(&self, events: &[AppendRequest]) -> Result<(), Error> {
        self.epoch.ensure_accepting()?;
        self.capacity.ensure_lanes_have_room(events.iter().map(|event| &event.lane))
    }

    /// Appends several requests in one call and answers each of them, in order.
    pub(super) async fn append_together(&self, requests: Vec<AppendCall>) -> Vec<Result<Vec<AcceptedEvent>, Error>> {
        match self.append_once(&requests).await {
            Ok(answers) => answers,
            // One request may need a key that holds another type. The others must not fail with it.
            Err(Error::Misconfigured(_)) if requests.len() > 1 => {
                let mut answers = Vec::with_capacity(requests.len());
                for request in requests {
                    let alone = self.append_once(&[request]).await;
                    answers.push(alone.and_then(|mut answers| answers.pop().unwrap_or_else(|| Err(miscounted()))));
                }
                answers
            }
            Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn append_once(&self, requests: &[AppendCall]) -> Result<Vec<Result<Vec<AcceptedEvent>, Error>>, Error> {
        self.epoch.ensure_accepting()?;
        for _ in 0..LANE_TRIES {
            let lanes = requests.iter().flat_map(|request| &request.events).map(|event| &event.lane);
            let missing = self.lanes.find_missing(lanes);
            self.lanes.make(missing).await?;
            let seen = self.epoch.accepted_seen();
            let answer = self.client.link.call_until_known(&self.append_call(requests)).await?;
            if is_lane_missing(&answer) {
                self.lanes.refresh(&[]).await?;
                continue;
            }
            let mut items = reply::array(answer)?;
            if items.len() != 3 {
                return Err(self.epoch.report_loss());
            }
            let answers = items.pop().unwrap_or_default();
            self.epoch.note_accepted(seen, reply::count(&items[1])?);
            if answers == Value::Int(0) {
                return Ok(requests.iter().map(|request| Ok(request.accept_all())).collect());
            }
            let answers = reply::array(answers)?;
            if answers.len() != requests.len() {
                return Err(miscounted());
            }
            return Ok(requests
                .iter()
                .zip(answers)
                .map(|(request, answer)| self.read_answer(request, answer))
                .collect());
        }
        Err(Error::refused("lanes are added faster than they can be read"))
    }

    fn append_call(&self, requests: &[AppendCall]) -> ScriptCall<'_> {
        let client = &self.client;
        let known = self.lanes.known();
        let mut places = LanePlaces::default();
        for lane in &known.lanes {
            places.place_of(lane);
        }
        let limits = self.capacity.limits();
        let mut keys: HashMap<[u8; 32], usize> = HashMap::new();
        let mut call = client
            .script_call(&client.scripts.append)
            .text(&self.epoch.current())
            .number(limits.all())
            .number(limits.each())
            .number(self.capacity.max_lane_bytes())
            .text(&own_limit_words(&limits, places.lanes()))
            .number(self.idempotency_ms.max(1))
            .number(known.set_size)
            .named_lanes(&client.keys, places.lanes());
        call.push_number(requests.len());
        call.push_text(&request_sizes(requests));
        call.push_number(self.capacity.max_idempotency_bytes() / IDEMPOTENCY_KEY_BYTES);
        for event in requests.iter().flat_map(|request| &request.events) {
            call.push_display(event.id);
            let lane = places.place_of(&event.lane);
            match (&event.idempotency, event.start) {
                (None, DeliveryStart::Now) => call.push_number(lane),
                (idempotency, start) => {
                    let (word, ms) = start_words(start);
                    let (place, fingerprint) = idempotency.as_ref().map_or((0, &[][..]), |idempotency| {
                        let next = keys.len() + 1;
                        let place = *keys.entry(idempotency.key).or_insert(next);
                        if place == 1 && next == 1 {
                            call.push_key(client.keys.idempotency_ends());
                        }
                        if place == next {
                            call.push_key(client.keys.idempotency(&idempotency.key));
                        }
                        (place, &idempotency.fingerprint[..])
                    });
                    let mut placing = format!("{lane} {word} {ms} {place} ").into_bytes();
                    placing.extend_from_slice(fingerprint);
                    call.push_bytes(placing);
                }
            }
            call.push_bytes(&event.blob);
        }
        call
    }

    fn read_answer(&self, request: &AppendCall, answer: Value) -> Result<Vec<AcceptedEvent>, Error> {
        let mut items = reply::array(answer)?.into_iter();
        let verdict = reply::text(items.next().unwrap_or_default())?;
        match verdict.as_str() {
            "OK" if items.len() == request.events.len() => request
                .events
                .iter()
                .zip(items)
                .map(|(event, first)| {
                    let first = reply::text(first)?;
                    if first.is_empty() {
                        return Ok(AcceptedEvent { id: event.id, duplicate: false });
                    }
                    let id = first.parse().map_err(|_| damaged_key())?;
                    Ok(AcceptedEvent { id, duplicate: true })
                })
                .collect(),
            "CONFLICT" => {
                let places = items.map(|place| reply::index(&place)).collect::<Result<_, _>>()?;
                Err(Error::Conflict(places))
            }
            "FULL" => {
                let waiting = reply::count(&items.next().unwrap_or_default())?;
                Err(Error::Full { waiting, limit: self.capacity.limits().all() })
            }
            "LANEFULL" => {
                let name = reply::text(items.next().unwrap_or_default())?;
                let waiting = reply::count(&items.next().unwrap_or_default())?;
                let limit = reply::count(&items.next().unwrap_or_default())?;
                let lane = name.parse().map_err(|_| miscounted())?;
                Err(Error::LaneFull { lane, waiting, limit })
            }
            "LANEHEAVY" => {
                let name = reply::text(items.next().unwrap_or_default())?;
                let waiting_bytes = reply::count(&items.next().unwrap_or_default())?;
                let failed_bytes = reply::count(&items.next().unwrap_or_default())?;
                let lane = name.parse().map_err(|_| miscounted())?;
                Err(Error::LaneHeavy { lane, waiting_bytes, failed_bytes, limit_bytes: self.capacity.max_lane_bytes() })
            }
            "KEYSFULL" => {
                let name = reply::text(items.next().unwrap_or_default())?;
                let lane_keys = reply::count(&items.next().unwrap_or_default())?;
                let all_keys = reply::count(&items.next().unwrap_or_default())?;
                Err(Error::KeysFull {
                    lane: name.parse().map_err(|_| miscounted())?,
                    lane_bytes: lane_keys.saturating_mul(IDEMPOTENCY_KEY_BYTES),
                    all_bytes: all_keys.saturating_mul(IDEMPOTENCY_KEY_BYTES),
                    limit_bytes: self.capacity.max_idempotency_bytes(),
                })
            }
            "MISPLACED" => {
                let message = reply::text(items.next().unwrap_or_default())?;
                self.client.troubles().raise(TroubleKind::Misplaced, message.clone());
                Err(Error::Misconfigured(message))
            }
            _ => Err(miscounted()),
        }
    }
}

/// The number of events of each request, as the script reads it; empty if each has one.
fn request_sizes(requests: &[AppendCall]) -> String {
    if requests.iter().all(|request| request.events.len() == 1) {
        return String::new();
    }
    let sizes: Vec<String> = requests.iter().map(|request| request.events.len().to_string()).collect();
    sizes.join(" ")
}

/// The lanes of a call with a limit of their own, as the script reads them.
fn own_limit_words(limits: &LaneLimits, lanes: &[Lane]) -> String {
    if limits.own().is_empty() {
        return String::new();
    }
    let own = lanes.iter().enumerate().filter_map(|(index, lane)| Some((index + 1, limits.own().get(lane)?)));
    own.map(|(place, limit)| format!("{place}:{limit} ")).collect()
}

fn miscounted() -> Error {
    CallFailure::not_understood("Redis answered for another number of events than were sent").into()
}

fn damaged_key() -> Error {
    Error::Misconfigured("an idempotency key holds a value that this server did not write".into())
}

/// One new event, encoded.
pub(super) struct EncodedEvent {
    pub(super) id: EventId,
    pub(super) lane: Lane,
    pub(super) start: DeliveryStart,
    pub(super) blob: Bytes,
    pub(super) idempotency: Option<Idempotency>,
}

impl EncodedEvent {
    /// # Errors
    /// [`Error::Misconfigured`] if the record cannot be encoded. Retrying cannot help.
    pub(super) fn encode(append: AppendRequest, version: RecordVersion) -> Result<Self, Error> {
        Ok(Self {
            id: append.record.event.id,
            blob: codec::encode(&append.record, version)?,
            lane: append.lane,
            start: append.start,
            idempotency: append.idempotency,
        })
    }

    /// Adds the start to a call as two arguments.
    pub(super) fn push_start(&self, call: &mut ScriptCall<'_>) {
        let (word, ms) = start_words(self.start);
        call.push_text(word);
        call.push_number(ms);
    }
}

/// A start as scripts read it: a word and milliseconds.
pub(super) fn start_words(start: DeliveryStart) -> (&'static str, u64) {
    let (word, ms) = match start {
        DeliveryStart::Now => ("now", 0),
        DeliveryStart::InMs(ms) => ("in", ms),
        DeliveryStart::At(time) => ("at", u64::try_from(time.unix_ms()).unwrap_or(0)),
    };
    (word, ms.min(ScriptCall::MAX_NUMBER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventData, EventRecord, Timestamp};

    #[test]
    fn requests_weigh_by_their_number_of_events_or_by_their_bytes() {
        let request = |n: usize, size_bytes: usize| {
            let data = Some(EventData::text("1".repeat(size_bytes)));
            let event = Event { data, ..Event::new("a".parse().unwrap(), "/events", Timestamp::from_unix_ms(0)) };
            let record = EventRecord::new(event);
            let append = AppendRequest { record, lane: Lane::unrouted(), start: DeliveryStart::Now, idempotency: None };
            AppendCall::encode(vec![append; n], RecordVersion::Binary).unwrap()
        };
        let in_a_call = |request: AppendCall| ScriptCall::MAX_BYTES / request.weight();
        assert_eq!(in_a_call(request(1, 10)), MAX_EVENTS);
        assert_eq!(in_a_call(request(10, 10)), MAX_EVENTS / 10);
        assert_eq!(in_a_call(request(1, 256 * 1_024)), 7);
    }
}
