//! `POST /events`, `GET /events` and `GET /events/{id}`.
//!
//! A 202 is sent when the broker has the events as safe as it promises, and says how safe that is.

use std::sync::Arc;

use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::broker::{AcceptedEvent, AppendRequest, Durability, EndKind, EndedPage, FoundEvent};
use crate::clock;
use crate::event::{EventDraft, EventId, EventRecord, NewEvent};

use super::intake::PathParameter;
use super::memory::PrepaidCharge;
use super::problem::{Problem, ProblemKind};
use super::view::EventView;
use super::{ApiState, intake, json, json_text, query};

/// The most bytes that the answer to an array has for each event: an id in quotes, a truth and two commas.
const ANSWER_BYTES: usize = 48;

/// The answer to an array of events, in its order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AcceptedBatch {
    message: String,
    event_ids: Vec<EventId>,
    durability: Durability,
    duplicates: Vec<bool>,
}

/// A page of events.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventPage<'a> {
    events: Vec<EventView<'a>>,
    next_cursor: Option<&'a str>,
}

/// Accepts one event, or an array of which all are accepted or none.
pub(super) async fn publish(State(api): State<Arc<ApiState>>, request: Request) -> Result<Response, Problem> {
    // The request as it came: an extractor would copy the headers.
    let (Parts { uri, headers, .. }, body) = request.into_parts();
    // First of all: who is still sending does not see a refusal.
    let body = intake::body(body, &api.options, &api.memory).await?;
    query::none(uri.query())?;
    intake::json_is_meant(&headers)?;
    let key = intake::idempotency_key(&headers)?;
    let limits = &api.options.limits;
    let draft = EventDraft::parse(&body, limits)?;
    let is_batch = draft.is_batch();
    let events = draft.validate(limits, clock::now(), key.as_deref())?;

    let broker = api.event_log.name();
    // Once the events are stored, their answer cannot be refused any more.
    let mut answer_memory = api.memory.charge();
    if is_batch {
        answer_memory.grow_to(events.len().saturating_mul(ANSWER_BYTES))?;
    }
    let accepted = if events.is_empty() {
        Vec::new()
    } else {
        let events: Vec<_> = events.into_iter().map(|new| append(&api, new)).collect();
        let count = events.len();
        api.event_log.append(events).await.map_err(|error| Problem::from_append(error, count, is_batch))?
    };
    let durability = api.event_log.health().durability;
    if is_batch {
        let mut answer = json(
            StatusCode::ACCEPTED,
            &AcceptedBatch {
                message: format!("{} events accepted and queued ({broker})", accepted.len()),
                event_ids: accepted.iter().map(|accepted| accepted.id).collect(),
                durability,
                duplicates: accepted.iter().map(|accepted| accepted.duplicate).collect(),
            },
        );
        answer.extensions_mut().insert(PrepaidCharge(Arc::new(answer_memory)));
        return Ok(answer);
    }
    let Some(accepted) = accepted.first() else {
        return Err(Problem::new(ProblemKind::Internal, "the broker accepted an event without naming it"));
    };
    let mut response = json_text(StatusCode::ACCEPTED, answer(broker, durability, *accepted));
    if let Ok(location) = HeaderValue::from_str(&format!("/events/{}", accepted.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// The answer to one event. Written by hand, since nothing in it needs escapes and no other answer is given as often.
fn answer(broker: &str, durability: Durability, accepted: AcceptedEvent) -> String {
    let (durability, AcceptedEvent { id, duplicate }) = (durability.as_str(), accepted);
    format!(
        r#"{{"message":"Event accepted and queued ({broker})","eventId":"{id}","durability":"{durability}","duplicate":{duplicate}}}"#
    )
}

/// Processed events, newest first.
pub(super) async fn list(State(api): State<Arc<ApiState>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let wanted = query::ended(query.as_deref(), EndKind::Processed)?;
    let _turn = api.memory.page_turn().await?;
    let EndedPage { records, next_cursor } = api.event_log.list_ended(wanted).await?;
    let events = records.iter().map(EventView::ended).collect();
    Ok(json(StatusCode::OK, &EventPage { events, next_cursor: next_cursor.as_deref() }))
}

/// One event in whatever state.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let FoundEvent { record, state, due } = find(&api, &id).await?;
    Ok(json(StatusCode::OK, &EventView::new(&record, state, due)).into_response())
}

/// The event of an id in a path.
///
/// # Errors
/// [`Kind::NotFound`], also for what is not an id.
pub(super) async fn find(api: &ApiState, id: &str) -> Result<FoundEvent, Problem> {
    let found = api.event_log.find_event(event_id(id)?).await?;
    found.ok_or_else(|| unknown(id))
}

/// The id in a path.
pub(super) fn event_id(id: &str) -> Result<EventId, Problem> {
    id.parse().map_err(|_| Problem::new(ProblemKind::NotFound, format!("{id:?} is not the id of an event")))
}

/// No event has this id.
pub(super) fn unknown(id: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no event {id}, or not any more"))
}

fn append(api: &ApiState, new: NewEvent) -> AppendRequest {
    let NewEvent { event, start, idempotency } = new;
    let lane = api.routes.lane(&event.event_type);
    AppendRequest { record: EventRecord::new(event), lane, start, idempotency }
}
