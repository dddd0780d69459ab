//! `/livez` and `/readyz`: whether the process should be left alone, and whether it should be sent work.
//!
//! Liveness depends on nothing: a store that is away is no reason to restart this process. Neither asks the store; the
//! broker keeps its health up to date in the background.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json as object};

use super::problem::{Problem, ProblemKind, Readiness};
use super::{ApiState, json, query};

/// The process answers.
pub(super) async fn live(RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::switch(query.as_deref(), "verbose")?;
    Ok(json(StatusCode::OK, &object!({ "status": "live" })))
}

/// Events are accepted and handled; which of the two, where only one is, stands in the answer. With `?verbose`, says
/// what was looked at; a refusal says so in any case.
pub(super) async fn ready(State(api): State<Arc<ApiState>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let verbose = query::switch(query.as_deref(), "verbose")?;
    let health = api.event_log.health();
    let stopping = api.draining.is_cancelled().then(|| "the server is stopping".to_owned());
    let plugins = api.routes.trouble();
    let works = stopping.is_none();
    let (accepting, handling) = (works && health.accepting, works && health.handling && plugins.is_none());
    let reasons: Vec<String> = stopping.iter().chain(&health.trouble).chain(&plugins).cloned().collect();
    let mut checks = vec![
        check("server", stopping.as_deref(), object!({ "consumer": api.consumers.consumer() })),
        check(
            "broker",
            health.trouble.as_deref(),
            object!({ "kind": api.event_log.name(), "durability": health.durability }),
        ),
    ];
    checks.extend(plugins.map(|trouble| check("plugins", Some(&trouble), object!({}))));
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

pub(super) fn check(name: &str, trouble: Option<&str>, facts: Value) -> Value {
    object!({ "name": name, "ready": trouble.is_none(), "trouble": trouble, "facts": facts })
}
