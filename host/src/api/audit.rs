//! `GET /audit`: who changed what. Notes of changes that the store does not make are written here, too.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::api_state::ApiState;
use super::problem::Problem;
use super::query;
use super::requester::Requester;
use super::response::json;
use crate::broker::{AuditEntry, AuditNote, AuditPage};

/// A page of the audit.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuditPageView<'a> {
    entries: &'a [AuditEntry],
    next_cursor: Option<&'a str>,
}

/// Lists entries, newest first.
pub(super) async fn list(
    State(api): State<Arc<ApiState>>,
    requester: Requester,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = query::parse_audit_query(query.as_deref())?;
    let _turn = api.memory.page_turns().enter(&requester).await?;
    let AuditPage { entries, next_cursor } = api.audit.list_audit(query).await?;
    Ok(json(StatusCode::OK, &AuditPageView { entries: &entries, next_cursor: next_cursor.as_deref() }))
}

/// Notes a change after it was made. If the store cannot be written, the change stays and the log has the note.
pub(super) async fn note_change(api: &ApiState, note: AuditNote) {
    if let Err(error) = api.audit.write_audit(&note).await {
        let AuditNote { by, action, target, detail, reason, .. } = note;
        tracing::error!(by, action, target, detail, reason, "a change is not in the audit: {error}");
    }
}
