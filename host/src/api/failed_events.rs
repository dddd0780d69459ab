//! `GET /failed-events`, `GET /failed-events/{id}` and `POST /failed-events/{id}/replay`.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LOCATION};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;

use crate::broker::{EndKind, EndedPage, FoundEvent, ReplayOutcome};
use crate::event::{self, EventId};

use super::events::{event_id, find, unknown};
use super::intake::PathParameter;
use super::problem::{Problem, ProblemKind};
use super::view::EventView;
use super::{ApiState, json, query};

/// A page of failed events.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FailedEventPage<'a> {
    failed_events: Vec<EventView<'a>>,
    next_cursor: Option<&'a str>,
}

/// The answer to a replay.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplayAccepted {
    message: &'static str,
    event_id: EventId,
}

/// Failed events, newest first.
pub(super) async fn list(State(api): State<Arc<ApiState>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let wanted = query::ended(query.as_deref(), EndKind::Failed)?;
    let _turn = api.memory.page_turn().await?;
    let EndedPage { records, next_cursor } = api.event_log.list_ended(wanted).await?;
    let failed_events = records.iter().map(EventView::ended).collect();
    Ok(json(StatusCode::OK, &FailedEventPage { failed_events, next_cursor: next_cursor.as_deref() }))
}

/// One failed event.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let FoundEvent { record, state, due } = find(&api, &id).await?;
    if state != event::EventState::Failed {
        let detail = format!("the event {id} is {state}, not failed; it is shown at /events/{id}");
        return Err(Problem::new(ProblemKind::NotFound, detail));
    }
    Ok(json(StatusCode::OK, &EventView::new(&record, state, due)))
}

/// Puts a failed event back to work, in the lane of the plugin that handles its type now.
pub(super) async fn replay(
    State(api): State<Arc<ApiState>>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    if !matches!(body.trim_ascii(), b"" | b"{}") {
        let detail = "a replay takes no body: the event is replayed as it was accepted; send what is to be different as a new event";
        return Err(Problem::new(ProblemKind::BadRequest, detail));
    }
    let FoundEvent { record, .. } = find(&api, &id).await?;
    let lane = api.routes.lane(&record.event.event_type);
    let event_id = event_id(&id)?;
    match api.event_log.replay(event_id, &lane).await? {
        ReplayOutcome::Done => {
            let answer = ReplayAccepted { message: "Event queued again", event_id };
            let mut response = json(StatusCode::ACCEPTED, &answer);
            if let Ok(location) = HeaderValue::from_str(&format!("/events/{event_id}")) {
                response.headers_mut().insert(LOCATION, location);
            }
            Ok(response)
        }
        ReplayOutcome::NotFailed(state) => Err(Problem::new(
            ProblemKind::NotFailed,
            format!("the event {id} is {state}; only failed events are replayed"),
        )),
        ReplayOutcome::Unknown => Err(unknown(&id)),
    }
}
