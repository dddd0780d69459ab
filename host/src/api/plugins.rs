//! `GET /plugins` and `GET /plugins/{name}`: what is loaded, for which types, and why something is not. And what changes
//! it: `POST /plugins/{name}/rollback` and `…/approve`, `DELETE /plugins/{name}`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json as object};

use super::intake::PathParameter;
use super::problem::{Problem, ProblemKind};
use super::{ApiState, PluginChangeError, json, query};
use crate::broker::{Lane, PeerCoverage};
use crate::event::TypePattern;

/// Every plugin of this host, and what other hosts handle that this one does not.
pub(super) async fn list(State(api): State<Arc<ApiState>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let statuses = api.routes.statuses();
    let elsewhere = elsewhere(&statuses, &api.consumers.peer_coverage());
    let mut document = object!({ "plugins": statuses, "overlooked": api.routes.overlooked() });
    if !elsewhere.is_empty() {
        document["elsewhere"] = elsewhere.into();
    }
    Ok(json(StatusCode::OK, &document))
}

/// The types that only other hosts handle, by the names of their plugins.
fn elsewhere(statuses: &[Value], elsewhere: &PeerCoverage) -> Vec<Value> {
    let is_here = |name: &str, pattern: &str| {
        let mut same = statuses.iter().filter(|status| status["name"] == name);
        same.any(|status| status["types"].as_array().is_some_and(|types| types.iter().any(|it| it == pattern)))
    };
    let only_there = |(lane, patterns): (&Lane, &BTreeSet<TypePattern>)| {
        let types: Vec<String> =
            patterns.iter().map(ToString::to_string).filter(|pattern| !is_here(lane.as_str(), pattern)).collect();
        (!types.is_empty()).then(|| object!({ "name": lane, "types": types }))
    };
    elsewhere.served().lanes().filter_map(only_there).collect()
}

/// One plugin.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let status = api.routes.statuses().into_iter().find(|status| status["name"] == name.as_str());
    match status {
        Some(status) => Ok(json(StatusCode::OK, &status)),
        None => {
            Err(Problem::new(ProblemKind::NotFound, format!("there is no plugin {name:?}; GET /plugins lists them")))
        }
    }
}

/// Brings the version back that served before, and shows what serves then.
pub(super) async fn rollback(
    State(api): State<Arc<ApiState>>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let status = api.routes.rollback(&name).await.map_err(refusal(ProblemKind::NotRolledBack))?;
    Ok(json(StatusCode::OK, &status))
}

/// Has the build serve that is held, and shows what serves then. `?digest=` says which one, so that none is approved that
/// nobody looked at.
pub(super) async fn approve(
    State(api): State<Arc<ApiState>>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let digest = query::value(query.as_deref(), "digest")?;
    let status = api.routes.approve(&name, digest.as_deref()).await.map_err(refusal(ProblemKind::NotApproved))?;
    Ok(json(StatusCode::OK, &status))
}

/// Removes the plugin's file, and says what stays. With `?state` what it keeps goes too, also if the plugin went before.
pub(super) async fn remove(
    State(api): State<Arc<ApiState>>,
    PathParameter(name): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let with_state = query::switch(query.as_deref(), "state")?;
    let mut removal = match api.routes.remove(&name).await {
        Err(PluginChangeError::Unknown(words)) if with_state => {
            let removed = api.plugin_state.remove_plugin_state(&name).await?;
            if removed == 0 {
                return Err(Problem::new(
                    ProblemKind::NotFound,
                    format!("{words}; and no state is kept under that name"),
                ));
            }
            return Ok(json(StatusCode::OK, &object!({ "name": name, "stateKeysRemoved": removed })));
        }
        removed => removed.map_err(refusal(ProblemKind::NotRemoved))?,
    };
    if with_state {
        removal["stateKeysRemoved"] = api.plugin_state.remove_plugin_state(&name).await?.into();
    }
    Ok(json(StatusCode::OK, &removal))
}

fn refusal(kind: ProblemKind) -> impl Fn(PluginChangeError) -> Problem {
    move |error| match error {
        PluginChangeError::Unknown(words) => Problem::new(ProblemKind::NotFound, words),
        PluginChangeError::Unnamed(words) => Problem::new(ProblemKind::BadQuery, words),
        PluginChangeError::Refused(words) => Problem::new(kind, words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ConsumerCoverage;

    #[test]
    fn what_only_other_hosts_handle_is_told_by_plugin() {
        let pattern = |text: &str| text.parse::<TypePattern>().unwrap();
        let lanes = [
            ("here".parse().unwrap(), vec![pattern("a"), pattern("b")]),
            ("there".parse().unwrap(), vec![pattern("order.*")]),
            ("same".parse().unwrap(), vec![pattern("c")]),
        ];
        let others = PeerCoverage::combine([&ConsumerCoverage::new(lanes, false)], false);
        let here = [object!({"name": "here", "types": ["a"]}), object!({"name": "same", "types": ["c"]})];
        let expected = [object!({"name": "here", "types": ["b"]}), object!({"name": "there", "types": ["order.*"]})];
        assert_eq!(elsewhere(&here, &others), expected);
        assert_eq!(elsewhere(&here, &PeerCoverage::default()), [Value::Null; 0]);
    }
}
