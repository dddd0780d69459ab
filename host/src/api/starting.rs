//! What is answered until the broker is there: the process lives, is not ready, and takes nothing yet.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::routing::get;
use serde_json::json as object;

use super::problem::{Problem, ProblemKind, Readiness};
use super::{health, query};

/// The routes for this time. `reason` says what is waited for.
pub(super) fn router(reason: String) -> Router {
    Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(not_ready))
        .fallback(not_yet)
        .with_state(Arc::<str>::from(reason))
}

async fn not_ready(State(reason): State<Arc<str>>, RawQuery(query): RawQuery) -> Problem {
    if let Err(problem) = query::switch(query.as_deref(), "verbose") {
        return problem;
    }
    let checks = object!([health::check("broker", Some(&reason), object!({}))]);
    let readiness = Readiness { accepting: false, handling: false, checks };
    Problem::new(ProblemKind::NotReady, &*reason).with_readiness(readiness)
}

async fn not_yet(State(reason): State<Arc<str>>) -> Problem {
    Problem::new(ProblemKind::NotReady, format!("{reason}; nothing was accepted, send the request again"))
}
