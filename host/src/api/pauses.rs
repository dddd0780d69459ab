//! `POST /plugins/{name}/pause` and `POST /plugins/{name}/resume`.
//!
//! A pause is a fact of the store and holds for every host, whichever version of the plugin serves.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json as object};

use super::api_state::ApiState;
use super::author::ChangeAuthor;
use super::caller::Caller;
use super::change_note::{ChangeNote, parse_note};
use super::plugins;
use super::problem::{Problem, ProblemKind};
use super::query;
use super::request::PathParameter;
use super::response::json;
use crate::broker::{AuditAction, AuditNote, Lane, MAX_STORED_PAUSES, PauseNote, PauseOutcome, PluginPause};
use crate::clock;

/// Pauses a plugin: its events are accepted and wait, and what runs ends.
pub(super) async fn pause(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    Extension(caller): Extension<Caller>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let lane = find_plugin(&api, &name)?;
    let now = clock::now();
    let ChangeNote { reason, until } = parse_note(&body, &["reason", "until"], now)?;
    let audit = AuditNote {
        detail: until.map(|until| format!("until {until}")),
        ..author.note(AuditAction::PausePlugin, &lane).because(reason.clone())
    };
    let pause = PluginPause { plugin: lane, note: PauseNote { since: now, by: caller.actor(), reason, until } };
    match api.pauses.pause(pause.clone(), &audit).await? {
        PauseOutcome::Done => {
            tracing::info!(plugin.id = name, "plugin paused by {}", pause.note.by);
            Ok(json(StatusCode::OK, &plugin_view(&api, &name, Some(&pause))))
        }
        PauseOutcome::Full => Err(Problem::new(
            ProblemKind::TooManyPauses,
            format!("the store holds {MAX_STORED_PAUSES} pauses: resume other plugins first"),
        )),
    }
}

/// Ends the pause of a plugin. One that is not paused stays as it is.
pub(super) async fn resume(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    Extension(caller): Extension<Caller>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let lane = find_plugin(&api, &name)?;
    let reason = parse_note(&body, &["reason"], clock::now())?.reason;
    let audit = author.note(AuditAction::ResumePlugin, &lane).because(reason);
    if api.pauses.resume(&lane, &audit).await? {
        tracing::info!(plugin.id = name, "plugin resumed by {}", caller.actor());
    }
    Ok(json(StatusCode::OK, &plugin_view(&api, &name, None)))
}

/// The plugin after the change. Only other hosts may have it.
fn plugin_view(api: &ApiState, name: &str, pause: Option<&PluginPause>) -> Value {
    match api.plugins.plugin(name) {
        Some(plugin) => plugins::view(&plugin, pause),
        None => match pause {
            Some(pause) => object!({ "name": name, "paused": pause.note }),
            None => object!({ "name": name }),
        },
    }
}

/// The lane of a plugin of this host or another one, or of one that is paused.
fn find_plugin(api: &ApiState, name: &str) -> Result<Lane, Problem> {
    let is_known = |lane: &Lane| {
        api.plugins.plugin(name).is_some()
            || api.consumers.peer_coverage().served().lanes().any(|(served, _)| served == lane)
            || api.pauses.pause_of(name).is_some()
    };
    let lane = name.parse().ok().filter(|lane| *lane != Lane::unrouted() && is_known(lane));
    lane.ok_or_else(|| {
        Problem::new(ProblemKind::NotFound, format!("there is no plugin {name:?}; GET /plugins lists them"))
    })
}
