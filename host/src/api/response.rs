//! Answers in JSON.

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::event::media_type;

use super::memory_budget::FREE_BYTES;
use super::problem::{Problem, ProblemKind};

/// Answers with a value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        // A body that grew has spare capacity. A large one would hold it until the client has read the answer.
        Ok(body) if body.len() > FREE_BYTES => json_text(status, body.into_boxed_slice().into_vec()),
        Ok(body) => json_text(status, body),
        Err(error) => {
            tracing::error!("an answer cannot be written as JSON: {error}");
            Problem::new(ProblemKind::Internal, "the answer cannot be written as JSON").into_response()
        }
    }
}

/// Answers with text that is JSON already.
pub(super) fn json_text(status: StatusCode, body: impl IntoResponse) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static(media_type::JSON))], body).into_response()
}
