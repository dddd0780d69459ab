//! `GET /plugins` and `GET /plugins/{name}` show the plugins. `POST /plugins/{name}/rollback`, `POST
//! /plugins/{name}/approve` and `DELETE /plugins/{name}` change them.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json as object};

use super::api_state::{ApiState, PluginChangeError};
use super::audit::note_change;
use super::author::ChangeAuthor;
use super::change_note::parse_note;
use super::problem::{Problem, ProblemKind};
use super::query;
use super::request::PathParameter;
use super::response::json;
use crate::broker::{AuditAction, AuditNote, Lane, PeerCoverage, PluginPause};
use crate::clock;
use crate::event::TypePattern;
use crate::plugin_report::PluginReport;

/// The event types of a plugin that only other hosts handle.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ElsewhereView {
    name: Lane,
    types: Vec<TypePattern>,
}

/// Shows every plugin of this host, and what other hosts handle that this one does not.
pub(super) async fn list(State(api): State<Arc<ApiState>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let plugins = api.plugins.plugins();
    let elsewhere = handled_elsewhere(&plugins, &api.consumers.peer_coverage());
    let pauses = api.pauses.pauses();
    let pause_of = |name: &str| pauses.iter().find(|pause| pause.plugin.as_str() == name);
    let views: Vec<Value> = plugins.iter().map(|plugin| view(plugin, pause_of(&plugin.name))).collect();
    let mut document = object!({ "plugins": views, "overlooked": api.plugins.overlooked() });
    let is_elsewhere = |pause: &&PluginPause| plugins.iter().all(|plugin| plugin.name != pause.plugin.as_str());
    let paused_elsewhere: Vec<&PluginPause> = pauses.iter().filter(is_elsewhere).collect();
    if !paused_elsewhere.is_empty() {
        document["pausedElsewhere"] = object!(paused_elsewhere);
    }
    if !elsewhere.is_empty() {
        document["elsewhere"] = object!(elsewhere);
    }
    Ok(json(StatusCode::OK, &document))
}

/// A plugin as clients see it, with its pause.
pub(super) fn view(plugin: &PluginReport, pause: Option<&PluginPause>) -> Value {
    let mut view = object!(plugin);
    if let Some(pause) = pause {
        view["paused"] = object!(pause.note);
    }
    view
}

/// The event types that only other hosts handle, by plugin.
fn handled_elsewhere(plugins: &[PluginReport], peers: &PeerCoverage) -> Vec<ElsewhereView> {
    let is_here = |name: &str, pattern: &TypePattern| {
        plugins.iter().any(|plugin| plugin.name == name && plugin.types.contains(pattern))
    };
    let only_there = |(lane, patterns): (&Lane, &BTreeSet<TypePattern>)| {
        let types: Vec<_> = patterns.iter().filter(|pattern| !is_here(lane.as_str(), pattern)).cloned().collect();
        (!types.is_empty()).then(|| ElsewhereView { name: lane.clone(), types })
    };
    peers.served().lanes().filter_map(only_there).collect()
}

/// Shows one plugin.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    match api.plugins.plugin(&name) {
        Some(plugin) => Ok(json(StatusCode::OK, &view(&plugin, api.pauses.pause_of(&name).as_ref()))),
        None => {
            Err(Problem::new(ProblemKind::NotFound, format!("there is no plugin {name:?}; GET /plugins lists them")))
        }
    }
}

/// Brings back the version that served before, and shows the plugin after the change.
pub(super) async fn rollback(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let reason = parse_note(&body, &["reason"], clock::now())?.reason;
    let plugin = api.plugins.rollback(&name).await.map_err(change_refusal(ProblemKind::NotRolledBack))?;
    let note = author.note(AuditAction::RollBackPlugin, &name).because(reason);
    note_change(&api, AuditNote { detail: plugin.digest.clone(), ..note }).await;
    Ok(json(StatusCode::OK, &view(&plugin, api.pauses.pause_of(&name).as_ref())))
}

/// Lets a held build serve, and shows the plugin after the change. `?digest=` names the build, so that a build that replaced
/// it meanwhile is not approved by mistake.
pub(super) async fn approve(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    let digest = query::parse_value(query.as_deref(), "digest")?;
    let reason = parse_note(&body, &["reason"], clock::now())?.reason;
    let approved = api.plugins.approve(&name, digest.as_deref()).await;
    let plugin = approved.map_err(change_refusal(ProblemKind::NotApproved))?;
    let note = author.note(AuditAction::ApprovePlugin, &name).because(reason);
    note_change(&api, AuditNote { detail: digest, ..note }).await;
    Ok(json(StatusCode::OK, &view(&plugin, api.pauses.pause_of(&name).as_ref())))
}

/// Removes a plugin's file, and says what stays. With `?state` its state is removed as well, even if the file disappeared
/// earlier.
pub(super) async fn remove(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let (with_state, reason) = query::parse_removal(query.as_deref(), Some("state"))?;
    let removed_state = author.note(AuditAction::RemoveState, &name).because(reason.clone());
    let mut document = match api.plugins.remove(&name).await {
        Err(PluginChangeError::Unknown(detail)) if with_state => {
            let removed_keys = api.plugin_state.remove_plugin_state(&name, Some(&removed_state)).await?;
            if removed_keys == 0 {
                let detail = format!("{detail}; and no state is stored under that name");
                return Err(Problem::new(ProblemKind::NotFound, detail));
            }
            return Ok(json(StatusCode::OK, &object!({ "name": name, "stateKeysRemoved": removed_keys })));
        }
        removed => object!(removed.map_err(change_refusal(ProblemKind::NotRemoved))?),
    };
    note_change(&api, author.note(AuditAction::RemovePlugin, &name).because(reason)).await;
    if with_state {
        let removed_keys = api.plugin_state.remove_plugin_state(&name, Some(&removed_state)).await?;
        document["stateKeysRemoved"] = removed_keys.into();
    }
    Ok(json(StatusCode::OK, &document))
}

/// Turns a refused change into a problem; `kind` is that of a change that is not possible now.
fn change_refusal(kind: ProblemKind) -> impl Fn(PluginChangeError) -> Problem {
    move |error| match error {
        PluginChangeError::Unknown(detail) => Problem::new(ProblemKind::NotFound, detail),
        PluginChangeError::DigestMissing(detail) => Problem::new(ProblemKind::BadQuery, detail),
        PluginChangeError::Refused(detail) => Problem::new(kind, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::fake::plugin;
    use crate::broker::ConsumerCoverage;

    #[test]
    fn types_that_only_other_hosts_handle_are_listed_by_plugin() {
        let pattern = |text: &str| text.parse::<TypePattern>().unwrap();
        let lanes = [
            ("here".parse().unwrap(), vec![pattern("a"), pattern("b")]),
            ("there".parse().unwrap(), vec![pattern("order.*")]),
            ("same".parse().unwrap(), vec![pattern("c")]),
        ];
        let others = PeerCoverage::combine([&ConsumerCoverage::new(lanes, false)], false);
        let here = [plugin("here", &["a"]), plugin("same", &["c"])];
        let expected = object!([{"name": "here", "types": ["b"]}, {"name": "there", "types": ["order.*"]}]);
        assert_eq!(object!(handled_elsewhere(&here, &others)), expected);
        assert_eq!(handled_elsewhere(&here, &PeerCoverage::default()), []);
    }
}
