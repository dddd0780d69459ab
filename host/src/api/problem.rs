//! Refusals, as problem documents (RFC 9457).

use std::borrow::Cow;

use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api_key::Scope;
use crate::broker;
use crate::event::{EventFault, RejectedRequest};

pub(super) use super::problem_kind::ProblemKind;

/// The media type of a problem document.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
/// After how many seconds a client may try again while a queue is full or the store is away.
const RETRY_AFTER_S: u64 = 1;
/// The same where an operator must act first.
const RETRY_AFTER_OPERATOR_S: u64 = 30;

// Limits on what a refusal repeats of its request. Without them a client could make the server hold large answers.
const MAX_ERRORS: usize = 20;
const MAX_DETAIL_BYTES: usize = 2 * 1024;
const MAX_POINTER_BYTES: usize = 256;
const MAX_MESSAGE_BYTES: usize = 512;

/// A refusal.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    kind: ProblemKind,
    detail: String,
    errors: Vec<EventFault>,
    retry_after_s: Option<u64>,
    outcome: Option<&'static str>,
    readiness: Option<Box<Readiness>>,
    closes_connection: bool,
    /// The scope that the key of the client lacks.
    missing_scope: Option<Scope>,
}

/// Which functions of a server that is not ready still work.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Readiness {
    /// Whether events are accepted.
    pub(super) accepting: bool,
    /// Whether events that were accepted are handled.
    pub(super) handling: bool,
    /// The result of each check.
    pub(super) checks: serde_json::Value,
}

/// The document. The members of RFC 9457 come first.
#[derive(Serialize)]
struct ProblemDocument<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: Cow<'a, str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<EventFault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(flatten)]
    readiness: Option<&'a Readiness>,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
            outcome: None,
            readiness: None,
            closes_connection: false,
            missing_scope: None,
        }
    }

    /// Adds each fault and its place.
    pub(super) fn with_errors(self, errors: Vec<EventFault>) -> Self {
        Self { errors, ..self }
    }

    /// Ends the connection with the answer, so that the rest of the body is not taken for the next request.
    pub(super) fn closing_connection(self) -> Self {
        Self { closes_connection: true, ..self }
    }

    /// Adds which functions still work, and the result of each check.
    pub(super) fn with_readiness(self, readiness: Readiness) -> Self {
        Self { readiness: Some(Box::new(readiness)), ..self }
    }

    /// The refusal of a request for which a limit on memory or connections leaves no room now.
    pub(super) fn overloaded(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Overloaded, detail).retry_after(RETRY_AFTER_S).closing_connection()
    }

    /// The refusal of a change that may have taken effect.
    pub(super) fn outcome_unknown(detail: impl Into<String>) -> Self {
        Self { outcome: Some("unknown"), ..Self::new(ProblemKind::StoreUnavailable, detail).retry_after(RETRY_AFTER_S) }
    }

    /// The refusal of a client that may not do this; `scope` is what its key lacks.
    pub(super) fn not_permitted(detail: impl Into<String>, scope: Option<Scope>) -> Self {
        Self { missing_scope: scope, ..Self::new(ProblemKind::NotPermitted, detail) }
    }

    /// The refusal of a request for which the client must wait this many seconds.
    pub(super) fn rate_limited(detail: impl Into<String>, wait_s: u64) -> Self {
        Self::new(ProblemKind::RateLimited, detail).retry_after(wait_s)
    }

    fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The refusal of an append of `events` events. `is_batch` says whether the body was an array, whose items the refusal
    /// then points to.
    pub(super) fn from_append(error: broker::Error, events: usize, is_batch: bool) -> Self {
        let indices = match &error {
            broker::Error::Conflict(indices) => indices,
            broker::Error::Full { limit, .. } if events as u64 > *limit => {
                let detail = format!(
                    "the request has {events} events, but at most {limit} may wait (broker.max_waiting): send fewer"
                );
                return Self::new(ProblemKind::TooLarge, detail);
            }
            broker::Error::LaneFull { lane, limit, .. } if events as u64 > *limit => {
                let detail = format!(
                    "the request has {events} events, but at most {limit} may wait in the lane {lane}: send fewer"
                );
                return Self::new(ProblemKind::TooLarge, detail);
            }
            _ => return Self::from(error),
        };
        let fault = |index: &usize| {
            let pointer = if is_batch { format!("/{index}") } else { String::new() };
            EventFault::new(pointer, "another event was accepted under this key before")
        };
        let errors = indices.iter().map(fault).collect();
        let detail = "nothing was accepted; use a new key for a new event";
        Self::new(ProblemKind::IdempotencyKeyReused, detail).with_errors(errors)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.kind.parts().0
    }

    /// After how many seconds the client may try again, if trying again can help.
    pub(super) fn retry_after_s(&self) -> Option<u64> {
        if self.kind == ProblemKind::NotReady { Some(RETRY_AFTER_S) } else { self.retry_after_s }
    }

    /// How the client may prove that it may do this (RFC 6750).
    fn challenge(&self) -> Option<HeaderValue> {
        match (self.kind, self.missing_scope) {
            (ProblemKind::KeyMissing, _) => Some(HeaderValue::from_static("Bearer realm=\"eventstream\"")),
            (ProblemKind::KeyRefused, _) => {
                Some(HeaderValue::from_static("Bearer realm=\"eventstream\", error=\"invalid_token\""))
            }
            (_, Some(scope)) => {
                let text = format!("Bearer realm=\"eventstream\", error=\"insufficient_scope\", scope=\"{scope}\"");
                HeaderValue::try_from(text).ok()
            }
            _ => None,
        }
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> String {
        let (status, r#type, title) = self.kind.parts();
        let mut detail = truncate(&self.detail, MAX_DETAIL_BYTES);
        if self.errors.len() > MAX_ERRORS {
            detail = format!("{detail}; the first {MAX_ERRORS} of {} errors follow", self.errors.len()).into();
        }
        let error = |fault: &EventFault| {
            EventFault::new(truncate(&fault.pointer, MAX_POINTER_BYTES), truncate(&fault.message, MAX_MESSAGE_BYTES))
        };
        let document = ProblemDocument {
            r#type,
            title,
            status: status.as_u16(),
            detail,
            errors: self.errors.iter().take(MAX_ERRORS).map(error).collect(),
            outcome: self.outcome,
            readiness: self.readiness.as_deref(),
        };
        serde_json::to_string(&document).unwrap_or_default()
    }
}

/// Cuts a text that is too long and marks the cut by an ellipsis.
fn truncate(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.len() <= max_bytes {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(max_bytes)]))
}

impl From<RejectedRequest> for Problem {
    fn from(rejected: RejectedRequest) -> Self {
        let detail = format!("{rejected}; nothing of it was accepted");
        match rejected {
            RejectedRequest::Malformed(faults) => Self::new(ProblemKind::MalformedBody, detail).with_errors(faults),
            RejectedRequest::Invalid(faults) => Self::new(ProblemKind::InvalidEvent, detail).with_errors(faults),
            RejectedRequest::TooLarge(faults) => Self::new(ProblemKind::TooLarge, detail).with_errors(faults),
        }
    }
}

impl From<broker::Error> for Problem {
    fn from(error: broker::Error) -> Self {
        match error {
            broker::Error::Unavailable { reason, outcome_known: true } => {
                Self::new(ProblemKind::StoreUnavailable, reason).retry_after(RETRY_AFTER_S)
            }
            broker::Error::Unavailable { reason, outcome_known: false } => Self::outcome_unknown(format!(
                "{reason}; the change may have taken effect. Send the request again; to publish, use the same Idempotency-Key"
            )),
            broker::Error::Full { .. }
            | broker::Error::LaneFull { .. }
            | broker::Error::LaneHeavy { .. }
            | broker::Error::KeysFull { .. } => {
                Self::new(ProblemKind::QueueFull, error.to_string()).retry_after(RETRY_AFTER_S)
            }
            broker::Error::NoRoom(_) => {
                Self::new(ProblemKind::StoreFull, error.to_string()).retry_after(RETRY_AFTER_OPERATOR_S)
            }
            broker::Error::Unsafe(reason) => {
                Self::new(ProblemKind::StoreUnsafe, reason).retry_after(RETRY_AFTER_OPERATOR_S)
            }
            broker::Error::Busy(reason) => Self::new(ProblemKind::StoreBusy, reason).retry_after(RETRY_AFTER_S),
            broker::Error::Conflict(_) => Self::from_append(error, 0, true),
            broker::Error::BadCursor => Self::new(ProblemKind::BadQuery, error.to_string()),
            broker::Error::Misconfigured(reason) => {
                tracing::error!("a request found the store misconfigured: {reason}");
                Self::new(ProblemKind::StoreMisconfigured, reason)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if self.closes_connection {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        (self.status(), headers, self.body()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_broker_have_their_status() {
        for (error, status, retry_after) in [
            (broker::Error::refused("away"), 503, Some("1")),
            (broker::Error::unknown("cut"), 503, Some("1")),
            (broker::Error::Full { waiting: 2, limit: 2 }, 429, Some("1")),
            (broker::Error::NoRoom("OOM".into()), 503, Some("30")),
            (broker::Error::Unsafe("evicts".into()), 503, Some("30")),
            (broker::Error::Busy("lists".into()), 503, Some("1")),
            (broker::Error::Conflict(vec![0]), 422, None),
            (broker::Error::BadCursor, 400, None),
            (broker::Error::Misconfigured("WRONGTYPE".into()), 500, None),
        ] {
            let response = Problem::from(error.clone()).into_response();
            assert_eq!(response.status(), status, "{error:?}");
            let header = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(header, retry_after, "{error:?}");
        }
    }

    #[test]
    fn a_batch_that_will_never_fit_is_too_large_and_another_may_try_again() {
        let refused =
            |events| Problem::from_append(broker::Error::Full { waiting: 0, limit: 5 }, events, true).status();
        assert_eq!((refused(5), refused(6)), (StatusCode::TOO_MANY_REQUESTS, StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[test]
    fn a_refusal_does_not_grow_with_its_request() {
        let errors =
            (0..1_000).map(|index| EventFault::new(format!("/{index}/{}", "é".repeat(9_000)), "\u{1}".repeat(9_000)));
        let problem = Problem::new(ProblemKind::InvalidEvent, "ü".repeat(9_000)).with_errors(errors.collect());
        let body = problem.body();
        assert!(body.len() < 128 * 1024, "{} bytes", body.len());
        let document: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(document["errors"].as_array().unwrap().len(), MAX_ERRORS);
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.ends_with("ü…; the first 20 of 1000 errors follow"), "{detail}");
    }

    #[test]
    fn an_unknown_outcome_is_said() {
        let document: serde_json::Value =
            serde_json::from_str(&Problem::from(broker::Error::unknown("cut")).body()).unwrap();
        assert_eq!(document["outcome"], "unknown");
        assert!(document["detail"].as_str().unwrap().contains("same Idempotency-Key"));
        let document: serde_json::Value =
            serde_json::from_str(&Problem::from(broker::Error::refused("cut")).body()).unwrap();
        assert_eq!(document.get("outcome"), None);
    }
}
