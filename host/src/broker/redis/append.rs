//! Appending events: several requests in one call of one script.
//!
//! Each request is appended whole or not at all. When the answer is lost the same call is made again with the same ids,
//! and what took effect the first time is recognised by them, so that an event is appended once.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redis::Value;

use super::board::{LOSS, TroubleKind};
use super::codec;
use super::core::{LanePlaces, RedisCore, asks_for_lanes};
use super::fault::{CallFailure, FailureCause};
use super::reply;
use super::scripts::ScriptCall;
use super::settle::MAX_CALL_BYTES;
use crate::broker::{AcceptedEvent, AppendRequest, Error, Lane, LaneLimits};
use crate::event::{DeliveryStart, EventId, Idempotency};

/// Events of one call, unless a single request has more of them.
const MAX_EVENTS: usize = 100;
const LANE_TRIES: usize = 4;

/// One request, encoded.
pub(super) struct AppendCall {
    events: Vec<EncodedEvent>,
}

/// One event, encoded.
pub(super) struct EncodedEvent {
    pub(super) id: EventId,
    pub(super) lane: Lane,
    pub(super) start: DeliveryStart,
    pub(super) blob: Bytes,
    idempotency: Option<Idempotency>,
}

impl EncodedEvent {
    /// # Errors
    /// [`Error::Misconfigured`] if the record cannot be written at all; trying again cannot help.
    pub(super) fn encode(append: AppendRequest) -> Result<Self, Error> {
        let blob = codec::encode(&append.record).map_err(|error| Error::Misconfigured(error.to_string()))?;
        Ok(Self {
            id: append.record.event.id,
            lane: append.lane,
            start: append.start,
            blob,
            idempotency: append.idempotency,
        })
    }

    /// When it may be delivered, as scripts read it.
    pub(super) fn push_start(&self, call: &mut ScriptCall<'_>) {
        let (word, ms) = words_of(self.start);
        call.push_text(word);
        call.push_number(ms);
    }
}

impl AppendCall {
    /// # Errors
    /// See [`NewEntry::encode`].
    pub(super) fn encode(events: Vec<AppendRequest>) -> Result<Self, Error> {
        Ok(Self { events: events.into_iter().map(EncodedEvent::encode).collect::<Result<_, _>>()? })
    }

    /// What it takes of a call: its bytes, or for small events the like of their number.
    pub(super) fn weight(&self) -> usize {
        let size_bytes = self.events.iter().map(|event| event.blob.len()).sum();
        (self.events.len() * (MAX_CALL_BYTES / MAX_EVENTS)).max(size_bytes)
    }

    /// The answer if all of them are new.
    fn as_new(&self) -> Vec<AcceptedEvent> {
        self.events.iter().map(|event| AcceptedEvent { id: event.id, duplicate: false }).collect()
    }
}

impl RedisCore {
    /// Why nothing may be accepted now, if so.
    pub(super) fn may_accept(&self) -> Result<(), Error> {
        match self.board().trouble(TroubleKind::Loss).or_else(|| self.board().trouble(TroubleKind::Unsafe)) {
            Some(trouble) => Err(Error::Unsafe(trouble)),
            None => Ok(()),
        }
    }

    /// Appends several requests together and answers each of them.
    pub(super) async fn append_together(&self, requests: Vec<AppendCall>) -> Vec<Result<Vec<AcceptedEvent>, Error>> {
        match self.append_once(&requests).await {
            Ok(answers) => answers,
            // One request may point at a key that holds something else; it must not keep the others out.
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
        self.may_accept()?;
        for _ in 0..LANE_TRIES {
            let lanes = requests.iter().flat_map(|request| &request.events).map(|event| &event.lane);
            self.make_lanes(self.missing_lanes(lanes)).await?;
            let seen = self.accepted_seen.load(Ordering::SeqCst);
            let answer = self.link.repeat(&self.append_call(requests)).await?;
            if asks_for_lanes(&answer) {
                self.refresh_lanes(&[]).await?;
                continue;
            }
            let mut items = reply::array(answer)?;
            if items.len() != 3 {
                return Err(self.lost_data());
            }
            let answers = items.pop().unwrap_or_default();
            self.note_accepted(seen, reply::count(&items[1])?);
            if answers == Value::Int(0) {
                return Ok(requests.iter().map(|request| Ok(request.as_new())).collect());
            }
            let answers = reply::array(answers)?;
            if answers.len() != requests.len() {
                return Err(miscounted());
            }
            return Ok(requests.iter().zip(answers).map(|(request, answer)| self.read(request, answer)).collect());
        }
        Err(Error::refused("the lanes change faster than they can be read"))
    }

    /// A script found another epoch than the one that is worked with.
    pub(super) fn lost_data(&self) -> Error {
        self.look.notify_one();
        self.board().raise(TroubleKind::Loss, LOSS);
        Error::Unsafe(LOSS.into())
    }

    /// Compares the total of accepted events with what was seen before the question was sent.
    pub(super) fn note_accepted(&self, seen_before: u64, accepted: u64) {
        if accepted < seen_before {
            self.look.notify_one();
        } else {
            self.accepted_seen.fetch_max(accepted, Ordering::SeqCst);
        }
    }

    fn append_call(&self, requests: &[AppendCall]) -> ScriptCall<'_> {
        let book = self.book();
        let mut places = LanePlaces::default();
        for lane in &book.lanes {
            places.of(lane);
        }
        let limits = self.limits.load();
        let mut keys: HashMap<[u8; 32], usize> = HashMap::new();
        let mut call = self
            .script(&self.scripts.append)
            .text(&self.epoch.load())
            .number(limits.all())
            .number(limits.each())
            .text(&own_limits(&limits, places.lanes()))
            .number(self.options.retention.idempotency_ms.max(1))
            .number(book.set_size)
            .named_lanes(&self.keys, places.lanes());
        call.push_number(requests.len());
        call.push_text(&sizes(requests));
        for event in requests.iter().flat_map(|request| &request.events) {
            call.push_shown(event.id);
            let lane = places.of(&event.lane);
            match (&event.idempotency, event.start) {
                (None, DeliveryStart::Now) => call.push_number(lane),
                (idempotency, start) => {
                    let (word, ms) = words_of(start);
                    let (place, fingerprint) = idempotency.as_ref().map_or((0, &[][..]), |idempotency| {
                        let next = keys.len() + 1;
                        let place = *keys.entry(idempotency.key).or_insert(next);
                        if place == next {
                            call.push_key(self.keys.idempotency(&idempotency.key));
                        }
                        (place, &idempotency.fingerprint[..])
                    });
                    let mut how = format!("{lane} {word} {ms} {place} ").into_bytes();
                    how.extend_from_slice(fingerprint);
                    call.push_bytes(how);
                }
            }
            call.push_bytes(&event.blob);
        }
        call
    }

    fn read(&self, request: &AppendCall, answer: Value) -> Result<Vec<AcceptedEvent>, Error> {
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
                let places = items.map(|place| reply::place(&place)).collect::<Result<_, _>>()?;
                Err(Error::Conflict(places))
            }
            "FULL" => {
                let waiting = reply::count(&items.next().unwrap_or_default())?;
                Err(Error::Full { waiting, limit: self.limits.load().all() })
            }
            "LANEFULL" => {
                let name = reply::text(items.next().unwrap_or_default())?;
                let waiting = reply::count(&items.next().unwrap_or_default())?;
                let limit = reply::count(&items.next().unwrap_or_default())?;
                let lane = name.parse().map_err(|_| miscounted())?;
                Err(Error::LaneFull { lane, waiting, limit })
            }
            "MISPLACED" => {
                let why = reply::text(items.next().unwrap_or_default())?;
                self.board().raise(TroubleKind::Misplaced, why.clone());
                Err(Error::Misconfigured(why))
            }
            _ => Err(miscounted()),
        }
    }
}

/// How many events each request has, as the script reads it: nothing if each has one, as nearly always.
fn sizes(requests: &[AppendCall]) -> String {
    if requests.iter().all(|request| request.events.len() == 1) {
        return String::new();
    }
    let sizes: Vec<String> = requests.iter().map(|request| request.events.len().to_string()).collect();
    sizes.join(" ")
}

/// The lanes of a call that have a limit of their own, as the script reads them.
fn own_limits(limits: &LaneLimits, lanes: &[Lane]) -> String {
    if limits.own().is_empty() {
        return String::new();
    }
    let own = lanes.iter().enumerate().filter_map(|(index, lane)| Some((index + 1, limits.own().get(lane)?)));
    own.map(|(place, limit)| format!("{place}:{limit} ")).collect()
}

/// A start as scripts read it. The latest time that they can count is far enough.
fn words_of(start: DeliveryStart) -> (&'static str, u64) {
    let (word, ms) = match start {
        DeliveryStart::Now => ("now", 0),
        DeliveryStart::InMs(ms) => ("in", ms),
        DeliveryStart::At(time) => ("at", u64::try_from(time.unix_ms()).unwrap_or(0)),
    };
    (word, ms.min(ScriptCall::MOST))
}

fn miscounted() -> Error {
    CallFailure::not_understood("Redis answered another number of events than were sent").into()
}

fn damaged_key() -> Error {
    Error::Misconfigured("an idempotency key holds something that this server did not write".into())
}

impl CallFailure {
    /// Whether a call that carries several things may work when each is sent alone.
    pub(super) fn may_be_one_of_several(&self) -> bool {
        self.reaction.cause == FailureCause::Misplaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventData, EventRecord, Timestamp};

    #[test]
    fn requests_weigh_by_their_number_or_by_their_bytes() {
        let request = |n: usize, size_bytes: usize| {
            let data = Some(EventData::text("1".repeat(size_bytes)));
            let event = Event { data, ..Event::new("a".parse().unwrap(), "/events", Timestamp::from_unix_ms(0)) };
            let record = EventRecord::new(event);
            let append = AppendRequest { record, lane: Lane::unrouted(), start: DeliveryStart::Now, idempotency: None };
            AppendCall::encode(vec![append; n]).unwrap()
        };
        let in_a_call = |request: AppendCall| MAX_CALL_BYTES / request.weight();
        assert_eq!(in_a_call(request(1, 10)), MAX_EVENTS);
        assert_eq!(in_a_call(request(10, 10)), MAX_EVENTS / 10);
        assert_eq!(in_a_call(request(1, 256 * 1_024)), 7);
    }
}
