//! `GET /livez` says whether the process runs, `GET /readyz` whether it accepts and handles events.
//!
//! Liveness depends on nothing else: restarting this process would not bring back a store that is away. Neither handler asks
//! the store, since the broker keeps its health up to date in the background.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json as object};

use super::api_state::ApiState;
use super::problem::{Problem, ProblemKind, Readiness};
use super::query;
use super::response::json;

/// Says that the process runs.
pub(super) async fn live(RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::parse_flag(query.as_deref(), "verbose")?;
    Ok(json(StatusCode::OK, &object!({ "status": "live" })))
}

/// Says whether events are accepted and whether they are handled. With `?verbose` the answer holds each check; a refusal always
/// does.
pub(super) async fn ready(State(api): State<Arc<ApiState>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let verbose = query::parse_flag(query.as_deref(), "verbose")?;
    let health = api.event_log.health();
    let stopping = api.stopping.is_cancelled().then(|| "the server is stopping".to_owned());
    let plugins = api.plugins.unready_reason();
    let runs = stopping.is_none();
    let (accepting, handling) = (runs && health.accepting, runs && health.handling && plugins.is_none());
    let reasons: Vec<String> = stopping.iter().chain(&health.trouble).chain(&plugins).cloned().collect();
    let mut broker_facts = object!({ "kind": api.event_log.name(), "durability": health.durability });
    if let Some(warning) = health.warning {
        broker_facts["warning"] = warning.into();
    }
    let mut checks = vec![
        readiness_check("server", stopping.as_deref(), object!({ "consumer": api.consumers.consumer() })),
        readiness_check("broker", health.trouble.as_deref(), broker_facts),
    ];
    checks.extend(plugins.map(|trouble| readiness_check("plugins", Some(&trouble), object!({}))));
    if !reasons.is_empty() {
        let readiness = Readiness { accepting, handling, checks: checks.into() };
        return Ok(Problem::new(ProblemKind::NotReady, reasons.join("; ")).with_readiness(readiness).into_response());
    }
    let mut answer = object!({ "status": "ready", "accepting": accepting, "handling": handling });
    if verbose {
        answer["checks"] = checks.into();
    }
    Ok(json(StatusCode::OK, &answer))
}

/// The result of one check. It passes if there is no trouble.
pub(super) fn readiness_check(name: &str, trouble: Option<&str>, facts: Value) -> Value {
    object!({ "name": name, "ready": trouble.is_none(), "trouble": trouble, "facts": facts })
}
