//! `POST /events/{id}/run-now` and `POST /events/{id}/cancel`: what a person does with an event that waits.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LOCATION};
use axum::response::Response;
use bytes::Bytes;

use super::api_state::ApiState;
use super::author::ChangeAuthor;
use super::caller::Caller;
use super::change_note::parse_note;
use super::events::{parse_event_id, unknown_event};
use super::failed_events::EventChanged;
use super::problem::{Problem, ProblemKind};
use super::query;
use super::request::PathParameter;
use super::response::json;
use crate::broker::{AuditAction, WaitingEventChange};
use crate::clock;
use crate::event::EventState;

/// Starts an event that is scheduled, retrying or deferred, as soon as its plugin has a slot.
pub(super) async fn run_now(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let event_id = parse_event_id(&id)?;
    let reason = parse_note(&body, &["reason"], clock::now())?.reason;
    let audit = author.note(AuditAction::RunEvent, event_id).because(reason);
    let change = api.event_log.run_now(event_id, Some(&audit)).await?;
    refuse_unchanged(change, &id, "only an event that is scheduled or retrying is started early")?;
    let mut response = json(StatusCode::ACCEPTED, &EventChanged { message: "Event is due now", event_id });
    if let Ok(location) = HeaderValue::from_str(&format!("/events/{event_id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Ends an event that waits, is scheduled or retries. Its record says who cancelled it, and why.
pub(super) async fn cancel(
    State(api): State<Arc<ApiState>>,
    Extension(caller): Extension<Caller>,
    Extension(author): Extension<ChangeAuthor>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let event_id = parse_event_id(&id)?;
    let by = format!("cancelled by {}", caller.actor());
    let said = parse_note(&body, &["reason"], clock::now())?.reason;
    let audit = author.note(AuditAction::CancelEvent, event_id).because(said.clone());
    let reason = said.map_or(by.clone(), |reason| format!("{by}: {reason}"));
    let change = api.event_log.cancel(event_id, &reason, Some(&audit)).await?;
    refuse_unchanged(change, &id, "only an event that waits is cancelled; a failed one is discarded")?;
    Ok(json(StatusCode::OK, &EventChanged { message: "Event cancelled", event_id }))
}

fn refuse_unchanged(change: WaitingEventChange, id: &str, rule: &str) -> Result<(), Problem> {
    match change {
        WaitingEventChange::Done => Ok(()),
        WaitingEventChange::NotWaiting(EventState::Queued) => {
            let detail = format!("the event {id} is queued and starts as soon as its plugin has a slot");
            Err(Problem::new(ProblemKind::NotWaiting, detail))
        }
        WaitingEventChange::NotWaiting(state) => {
            Err(Problem::new(ProblemKind::NotWaiting, format!("the event {id} is {state}; {rule}")))
        }
        WaitingEventChange::Unknown => Err(unknown_event(id)),
    }
}
