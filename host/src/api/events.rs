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

use crate::broker::{Accepted, Append, Durability, EndedPage, Ending, Found};
use crate::clock;
use crate::event::{Draft, EventId, NewEvent, Record};

use super::intake::InPath;
use super::memory::Prepaid;
use super::problem::{Kind, Problem};
use super::view::EventView;
use super::{Api, intake, json, json_text, query};

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
struct Page<'a> {
    events: Vec<EventView<'a>>,
    next_cursor: Option<&'a str>,
}

/// Accepts one event, or an array of which all are accepted or none.
pub(super) async fn publish(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    // The request as it came: an extractor would copy the headers.
    let (Parts { uri, headers, .. }, body) = request.into_parts();
    // First of all: who is still sending does not see a refusal.
    let body = intake::body(body, &api.options, &api.memory).await?;
    query::none(uri.query())?;
    intake::json_is_meant(&headers)?;
    let key = intake::idempotency_key(&headers)?;
    let limits = &api.options.limits;
    let draft = Draft::parse(&body, limits)?;
    let is_batch = draft.is_batch();
    let events = draft.validate(limits, clock::now(), key.as_deref())?;

    let broker = api.broker.name();
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
        api.broker.append(events).await.map_err(|error| Problem::from_append(error, count, is_batch))?
    };
    let durability = api.broker.health().durability;
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
        answer.extensions_mut().insert(Prepaid(Arc::new(answer_memory)));
        return Ok(answer);
    }
    let Some(accepted) = accepted.first() else {
        return Err(Problem::new(Kind::Internal, "the broker accepted an event without naming it"));
    };
    let mut response = json_text(StatusCode::ACCEPTED, answer(broker, durability, *accepted));
    if let Ok(location) = HeaderValue::from_str(&format!("/events/{}", accepted.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// The answer to one event. Written by hand, since nothing in it needs escapes and no other answer is given as often.
fn answer(broker: &str, durability: Durability, accepted: Accepted) -> String {
    let (durability, Accepted { id, duplicate }) = (durability.as_str(), accepted);
    format!(
        r#"{{"message":"Event accepted and queued ({broker})","eventId":"{id}","durability":"{durability}","duplicate":{duplicate}}}"#
    )
}

/// Processed events, newest first.
pub(super) async fn list(State(api): State<Arc<Api>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let wanted = query::ended(query.as_deref(), Ending::Processed)?;
    let _turn = api.memory.page_turn().await?;
    let EndedPage { records, next_cursor } = api.broker.ended(wanted).await?;
    let events = records.iter().map(EventView::ended).collect();
    Ok(json(StatusCode::OK, &Page { events, next_cursor: next_cursor.as_deref() }))
}

/// One event in whatever state.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    InPath(id): InPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let Found { record, state, due } = find(&api, &id).await?;
    Ok(json(StatusCode::OK, &EventView::new(&record, state, due)).into_response())
}

/// The event of an id in a path.
///
/// # Errors
/// [`Kind::NotFound`], also for what is not an id.
pub(super) async fn find(api: &Api, id: &str) -> Result<Found, Problem> {
    let found = api.broker.event(event_id(id)?).await?;
    found.ok_or_else(|| unknown(id))
}

/// The id in a path.
pub(super) fn event_id(id: &str) -> Result<EventId, Problem> {
    id.parse().map_err(|_| Problem::new(Kind::NotFound, format!("{id:?} is not the id of an event")))
}

/// No event has this id.
pub(super) fn unknown(id: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no event {id}, or not any more"))
}

fn append(api: &Api, new: NewEvent) -> Append {
    let NewEvent { event, start, idempotency } = new;
    let lane = api.routes.lane(&event.event_type);
    Append { record: Record::new(event), lane, start, idempotency }
}
