//! `GET /plugins` and `GET /plugins/{name}`: what is loaded, for which types, and why something is not.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json as object;

use super::intake::InPath;
use super::problem::{Kind, Problem};
use super::{Api, json, query};

/// Every plugin.
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    Ok(json(StatusCode::OK, &object!({ "plugins": api.routes.statuses() })))
}

/// One plugin.
pub(super) async fn show(
    State(api): State<Api>,
    InPath(name): InPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let status = api.routes.statuses().into_iter().find(|status| status["name"] == name.as_str());
    match status {
        Some(status) => Ok(json(StatusCode::OK, &status)),
        None => Err(Problem::new(Kind::NotFound, format!("there is no plugin {name:?}; GET /plugins lists them"))),
    }
}
