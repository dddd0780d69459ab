//! `GET /livez` says whether the process runs, `GET /readyz` whether it accepts and handles events.
//!
//! Liveness depends on nothing else: restarting this process would not bring back a store that is away. Neither handler asks
//! the store, since the broker keeps its health up to date in the background. Until the broker is open, the server is alive
//! and not ready, and accepts no events.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
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
fn readiness_check(name: &str, trouble: Option<&str>, facts: Value) -> Value {
    object!({ "name": name, "ready": trouble.is_none(), "trouble": trouble, "facts": facts })
}

/// The routes until the broker is open. `reason` says what the server waits for.
pub(super) fn starting_router(reason: String) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(show_not_ready))
        .fallback(refuse_request)
        .with_state(Arc::<str>::from(reason))
}

async fn show_not_ready(State(reason): State<Arc<str>>, RawQuery(query): RawQuery) -> Problem {
    if let Err(problem) = query::parse_flag(query.as_deref(), "verbose") {
        return problem;
    }
    let checks = object!([readiness_check("broker", Some(&reason), object!({}))]);
    let readiness = Readiness { accepting: false, handling: false, checks };
    Problem::new(ProblemKind::NotReady, &*reason).with_readiness(readiness)
}

async fn refuse_request(State(reason): State<Arc<str>>) -> Problem {
    Problem::new(ProblemKind::NotReady, format!("{reason}; nothing was accepted: send the request again"))
}
