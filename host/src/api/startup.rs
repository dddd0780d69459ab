//! Answers requests until the broker is open: the server is alive and not ready, and accepts no events.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::routing::get;
use serde_json::json as object;

use super::problem::{Problem, ProblemKind, Readiness};
use super::{health, query};

/// The routes until the broker is open. `reason` says what the server waits for.
pub(super) fn router(reason: String) -> Router {
    Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(show_not_ready))
        .fallback(refuse_request)
        .with_state(Arc::<str>::from(reason))
}

async fn show_not_ready(State(reason): State<Arc<str>>, RawQuery(query): RawQuery) -> Problem {
    if let Err(problem) = query::parse_flag(query.as_deref(), "verbose") {
        return problem;
    }
    let checks = object!([health::readiness_check("broker", Some(&reason), object!({}))]);
    let readiness = Readiness { accepting: false, handling: false, checks };
    Problem::new(ProblemKind::NotReady, &*reason).with_readiness(readiness)
}

async fn refuse_request(State(reason): State<Arc<str>>) -> Problem {
    Problem::new(ProblemKind::NotReady, format!("{reason}; nothing was accepted: send the request again"))
}
