//! `POST /events`, `GET /events` and `GET /events/{id}`.
//!
//! A 202 means that the broker has stored the events. Its member `durability` says how safely.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::broker::{AcceptedEvent, AppendRequest, Durability, EndKind, EndedPage, FoundEvent};
use crate::clock;
use crate::event::{EventId, EventRecord, NewEvent, ParsedBody};

use super::api_state::ApiState;
use super::caller::{Caller, RateTurn};
use super::event_view::EventView;
use super::memory_budget::PrepaidCharge;
use super::problem::{Problem, ProblemKind};
use super::query;
use super::request::{self, PathParameter};
use super::requester::Requester;
use super::response::{json, json_text};

/// The most bytes of an answer for each event of an array: a quoted id, `true` or `false`, and two commas.
const ANSWER_BYTES_PER_EVENT: usize = 48;

/// The answer to an array of events, in the order of the array.
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

/// Accepts one event, or all events of an array or none.
pub(super) async fn publish(
    State(api): State<Arc<ApiState>>,
    Extension(caller): Extension<Caller>,
    Extension(turn): Extension<Option<RateTurn>>,
    request: Request,
) -> Result<Response, Problem> {
    // Takes the request apart by hand, since an extractor would copy the headers.
    let (Parts { uri, headers, .. }, body) = request.into_parts();
    // Reads the body before the checks: a client that is still sending would miss a refusal.
    let body = request::read_body(body, &api.options, &api.memory).await?;
    turn.as_ref().map_or(Ok(()), RateTurn::check)?;
    query::refuse_parameters(uri.query())?;
    request::require_json(&headers)?;
    let idempotency_key = request::read_idempotency_key(&headers)?;
    let limits = &api.options.limits;
    let draft = ParsedBody::parse(&body, limits)?;
    let is_batch = draft.is_batch();
    let events = draft.validate(limits, clock::now(), idempotency_key.as_deref())?;
    caller.check_types(events.iter().map(|new| &new.event.event_type), is_batch)?;
    if let Some(turn) = &turn {
        turn.charge_events(events.len());
    }

    let broker = api.event_log.name();
    // Charges the answer now: once the events are stored, it can no longer be refused.
    let mut answer_charge = api.memory.new_charge();
    if is_batch {
        answer_charge.grow_to(events.len().saturating_mul(ANSWER_BYTES_PER_EVENT))?;
    }
    let accepted = if events.is_empty() {
        Vec::new()
    } else {
        let events: Vec<_> = events.into_iter().map(|new| append_request(&api, new)).collect();
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
        answer.extensions_mut().insert(PrepaidCharge(Arc::new(answer_charge)));
        return Ok(answer);
    }
    let Some(accepted) = accepted.first() else {
        return Err(Problem::new(ProblemKind::Internal, "the broker accepted an event and returned no id"));
    };
    let mut response = json_text(StatusCode::ACCEPTED, accepted_text(broker, durability, *accepted));
    if let Ok(location) = HeaderValue::from_str(&format!("/events/{}", accepted.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// The answer to one event. It is the most frequent answer and needs no escapes, so it is written without a serializer.
fn accepted_text(broker: &str, durability: Durability, accepted: AcceptedEvent) -> String {
    let (durability, AcceptedEvent { id, duplicate }) = (durability.as_str(), accepted);
    format!(
        r#"{{"message":"Event accepted and queued ({broker})","eventId":"{id}","durability":"{durability}","duplicate":{duplicate}}}"#
    )
}

/// Lists processed events, newest first.
pub(super) async fn list(
    State(api): State<Arc<ApiState>>,
    requester: Requester,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let ended = query::parse_ended_query(query.as_deref(), EndKind::Processed)?;
    let _turn = api.memory.page_turns().enter(&requester).await?;
    let EndedPage { records, next_cursor } = api.event_log.list_ended(ended).await?;
    let events = records.iter().map(EventView::of_ended).collect();
    Ok(json(StatusCode::OK, &EventPage { events, next_cursor: next_cursor.as_deref() }))
}

/// Shows one event in any state.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let FoundEvent { record, state, due } = find_event(&api, &id).await?;
    Ok(json(StatusCode::OK, &EventView::new(&record, state, due)).into_response())
}

/// Looks up the event with the id in a path.
///
/// # Errors
/// [`ProblemKind::NotFound`], also if the text is not an id.
pub(super) async fn find_event(api: &ApiState, id: &str) -> Result<FoundEvent, Problem> {
    let found = api.event_log.find_event(parse_event_id(id)?).await?;
    found.ok_or_else(|| unknown_event(id))
}

/// Parses the id in a path.
///
/// # Errors
/// [`ProblemKind::NotFound`].
pub(super) fn parse_event_id(id: &str) -> Result<EventId, Problem> {
    id.parse().map_err(|_| Problem::new(ProblemKind::NotFound, format!("{id:?} is not the id of an event")))
}

/// The refusal for an id that no event has.
pub(super) fn unknown_event(id: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no event {id}; it may have been removed"))
}

fn append_request(api: &ApiState, new: NewEvent) -> AppendRequest {
    let NewEvent { event, start, idempotency } = new;
    let lane = api.plugins.lane(&event.event_type);
    AppendRequest { record: EventRecord::new(event), lane, start, idempotency }
}
