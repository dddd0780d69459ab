//! `GET /plugins` and `GET /plugins/{name}`: what is loaded, for which types, and why something is not. And
//! `POST /plugins/{name}/rollback`: back to the version before.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json as object;

use super::intake::InPath;
use super::problem::{Kind, Problem};
use super::{Api, NotRolledBack, json, query};

/// Every plugin.
pub(super) async fn list(State(api): State<Arc<Api>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    Ok(json(StatusCode::OK, &object!({ "plugins": api.routes.statuses() })))
}

/// One plugin.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
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

/// Brings the version back that served before, and shows what serves then.
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    InPath(name): InPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let status = api.routes.rollback(&name).await.map_err(|error| match error {
        NotRolledBack::Unknown(words) => Problem::new(Kind::NotFound, words),
        NotRolledBack::Refused(words) => Problem::new(Kind::NotRolledBack, words),
    })?;
    Ok(json(StatusCode::OK, &status))
}
