//! `GET /failed-events`, and `GET`, `DELETE` and `POST …/replay` of `/failed-events/{id}`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LOCATION};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;

use crate::broker::{AuditAction, EndKind, EndedPage, FailedEventChange, FoundEvent};
use crate::clock;
use crate::event::{EventFault, EventId, EventState};

use super::api_state::ApiState;
use super::author::ChangeAuthor;
use super::change_note::parse_note;
use super::event_view::EventView;
use super::events::{find_event, parse_event_id, unknown_event};
use super::problem::{Problem, ProblemKind};
use super::query::{self, MAX_REASON_CHARS};
use super::request::PathParameter;
use super::requester::Requester;
use super::response::json;

/// A page of failed events.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FailedEventPage<'a> {
    failed_events: Vec<EventView<'a>>,
    next_cursor: Option<&'a str>,
}

/// The answer to a change of an event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventChanged {
    /// What was done.
    pub(super) message: &'static str,
    /// The event.
    pub(super) event_id: EventId,
}

/// Lists failed events, newest first.
pub(super) async fn list(
    State(api): State<Arc<ApiState>>,
    requester: Requester,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let ended = query::parse_ended_query(query.as_deref(), EndKind::Failed)?;
    let _turn = api.memory.page_turns().enter(&requester).await?;
    let EndedPage { records, next_cursor } = api.event_log.list_ended(ended).await?;
    let failed_events = records.iter().map(EventView::of_ended).collect();
    Ok(json(StatusCode::OK, &FailedEventPage { failed_events, next_cursor: next_cursor.as_deref() }))
}

/// Shows one failed event.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let FoundEvent { record, state, due } = find_event(&api, &id).await?;
    if state != EventState::Failed {
        let detail = format!("the event {id} is {state}, not failed; GET /events/{id} shows it");
        return Err(Problem::new(ProblemKind::NotFound, detail));
    }
    Ok(json(StatusCode::OK, &EventView::new(&record, state, due)))
}

/// Queues a failed event again, in the lane of the plugin that handles its type now.
pub(super) async fn replay(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let reason = parse_note(&body, &["reason"], clock::now())?.reason;
    let FoundEvent { record, .. } = find_event(&api, &id).await?;
    let lane = api.plugins.lane(&record.event.event_type);
    let event_id = parse_event_id(&id)?;
    let audit = author.note(AuditAction::ReplayEvent, event_id).because(reason);
    match api.event_log.replay(event_id, &lane, Some(&audit)).await? {
        FailedEventChange::Done => {
            let answer = EventChanged { message: "Event queued again", event_id };
            let mut response = json(StatusCode::ACCEPTED, &answer);
            if let Ok(location) = HeaderValue::from_str(&format!("/events/{event_id}")) {
                response.headers_mut().insert(LOCATION, location);
            }
            Ok(response)
        }
        FailedEventChange::NotFailed(state) => Err(Problem::new(
            ProblemKind::NotFailed,
            format!("the event {id} is {state}; only failed events are replayed"),
        )),
        FailedEventChange::Unknown => Err(unknown_event(&id)),
    }
}

/// Discards a failed event for good. `?reason=` says why; it stays in the record.
pub(super) async fn discard(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let reason = query::parse_value(query.as_deref(), "reason")?.unwrap_or_default();
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > MAX_REASON_CHARS {
        let fault = format!("say why, in 1 to {MAX_REASON_CHARS} characters: ?reason=TEXT");
        let faults = vec![EventFault::new("reason", fault)];
        return Err(Problem::new(ProblemKind::BadQuery, "a discard needs a reason").with_errors(faults));
    }
    let event_id = parse_event_id(&id)?;
    let audit = author.note(AuditAction::DiscardEvent, event_id).because(Some(reason.to_owned()));
    match api.event_log.discard(event_id, reason, Some(&audit)).await? {
        FailedEventChange::Done => Ok(json(StatusCode::OK, &EventChanged { message: "Event discarded", event_id })),
        FailedEventChange::NotFailed(state) => Err(Problem::new(
            ProblemKind::NotFailed,
            format!("the event {id} is {state}; only failed events are discarded"),
        )),
        FailedEventChange::Unknown => Err(unknown_event(&id)),
    }
}
