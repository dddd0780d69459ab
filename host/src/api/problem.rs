//! Refusals, as problem documents (RFC 9457).
//!
//! The `type` of a problem is a promise: programs may tell refusals apart by it. Titles and details are for people and
//! may change. A 500 is only for what a person who runs the server has to look into.

use std::borrow::Cow;

use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::broker;
use crate::event::{EventFault, RejectedRequest};

/// After how many seconds a sender may try again when a queue is full or a store is away.
const RETRY_AFTER_S: u64 = 1;
/// The same when a person has to act first.
const RETRY_AFTER_PERSON_S: u64 = 30;

/// How much of what a client sent a refusal may say again: a refusal that grows with its request would let a client send
/// little and have much memory held.
const MAX_ERRORS: usize = 20;
const MAX_DETAIL_BYTES: usize = 2 * 1024;
const MAX_POINTER_BYTES: usize = 256;
const MAX_MESSAGE_BYTES: usize = 512;

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProblemKind {
    BadRequest,
    BadQuery,
    BadIdempotencyKey,
    MalformedBody,
    CrossSite,
    ForeignHost,
    NotPermitted,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    RequestTimeout,
    NotFailed,
    NotRolledBack,
    NotApproved,
    NotRemoved,
    TooLarge,
    UriTooLong,
    UnsupportedMediaType,
    InvalidEvent,
    IdempotencyKeyReused,
    QueueFull,
    HeadersTooLarge,
    Internal,
    StoreMisconfigured,
    StoreFull,
    StoreUnavailable,
    StoreUnsafe,
    StoreBusy,
    NotReady,
    Overloaded,
    UnknownCoding,
}

impl ProblemKind {
    #[cfg(test)]
    pub(super) const ALL: [Self; 31] = [
        Self::BadRequest,
        Self::BadQuery,
        Self::BadIdempotencyKey,
        Self::MalformedBody,
        Self::CrossSite,
        Self::ForeignHost,
        Self::NotPermitted,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::NotFailed,
        Self::NotRolledBack,
        Self::NotApproved,
        Self::NotRemoved,
        Self::TooLarge,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::InvalidEvent,
        Self::IdempotencyKeyReused,
        Self::QueueFull,
        Self::HeadersTooLarge,
        Self::Internal,
        Self::StoreMisconfigured,
        Self::StoreFull,
        Self::StoreUnavailable,
        Self::StoreUnsafe,
        Self::StoreBusy,
        Self::NotReady,
        Self::Overloaded,
        Self::UnknownCoding,
    ];

    /// Status, `type` and title.
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::BadRequest => (S::BAD_REQUEST, "/problems/bad-request", "The request is not well-formed"),
            Self::BadQuery => (S::BAD_REQUEST, "/problems/bad-query", "The query is not understood"),
            Self::BadIdempotencyKey => {
                (S::BAD_REQUEST, "/problems/bad-idempotency-key", "The Idempotency-Key is not well-formed")
            }
            Self::MalformedBody => (S::BAD_REQUEST, "/problems/malformed-body", "The body cannot be read"),
            Self::CrossSite => (S::FORBIDDEN, "/problems/cross-site", "Other sites may not change anything here"),
            Self::ForeignHost => (S::FORBIDDEN, "/problems/foreign-host", "This server has another name"),
            Self::NotPermitted => (S::FORBIDDEN, "/problems/not-permitted", "Not everybody may do this"),
            Self::NotFound => (S::NOT_FOUND, "/problems/not-found", "There is no such thing"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "/problems/method-not-allowed", "This cannot be done here")
            }
            Self::NotAcceptable => {
                (S::NOT_ACCEPTABLE, "/problems/not-acceptable", "Nothing here is of an accepted media type")
            }
            Self::RequestTimeout => (S::REQUEST_TIMEOUT, "/problems/request-timeout", "The request took too long"),
            Self::NotFailed => (S::CONFLICT, "/problems/not-failed", "The event has not failed"),
            Self::NotRolledBack => (S::CONFLICT, "/problems/not-rolled-back", "The plugin cannot be rolled back"),
            Self::NotApproved => (S::CONFLICT, "/problems/not-approved", "The build cannot be approved"),
            Self::NotRemoved => (S::CONFLICT, "/problems/not-removed", "The plugin cannot be removed"),
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, "/problems/too-large", "The body is too large"),
            Self::UriTooLong => (S::URI_TOO_LONG, "/problems/uri-too-long", "The address is too long"),
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, "/problems/unsupported-media-type", "The media type is not accepted")
            }
            Self::InvalidEvent => (S::UNPROCESSABLE_ENTITY, "/problems/invalid-event", "The event is not valid"),
            Self::IdempotencyKeyReused => (
                S::UNPROCESSABLE_ENTITY,
                "/problems/idempotency-key-reused",
                "The idempotency key was used before with another body",
            ),
            Self::QueueFull => (S::TOO_MANY_REQUESTS, "/problems/queue-full", "Too many events wait"),
            Self::HeadersTooLarge => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "/problems/headers-too-large",
                "The headers of the request are too large",
            ),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "/problems/internal", "The server has made a mistake"),
            Self::StoreMisconfigured => {
                (S::INTERNAL_SERVER_ERROR, "/problems/store-misconfigured", "The store is not set up")
            }
            Self::StoreFull => (S::SERVICE_UNAVAILABLE, "/problems/store-full", "The store has no room left"),
            Self::StoreUnavailable => {
                (S::SERVICE_UNAVAILABLE, "/problems/store-unavailable", "The store cannot be reached")
            }
            Self::StoreUnsafe => {
                (S::SERVICE_UNAVAILABLE, "/problems/store-unsafe", "The store would not keep what it is given")
            }
            Self::StoreBusy => {
                (S::SERVICE_UNAVAILABLE, "/problems/store-busy", "Too much is asked of the store at a time")
            }
            Self::NotReady => (S::SERVICE_UNAVAILABLE, "/problems/not-ready", "The server is not ready"),
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "/problems/overloaded", "The server has too much under way"),
            Self::UnknownCoding => {
                (S::NOT_IMPLEMENTED, "/problems/unknown-coding", "The transfer coding is not supported")
            }
        }
    }
}

/// A refusal.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    kind: ProblemKind,
    detail: String,
    errors: Vec<EventFault>,
    retry_after_s: Option<u64>,
    outcome: Option<&'static str>,
    readiness: Option<Box<Readiness>>,
    closes: bool,
}

/// What works of a server that is not ready.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Readiness {
    /// Whether events are accepted.
    pub(super) accepting: bool,
    /// Whether events that were accepted are handled.
    pub(super) handling: bool,
    /// What was looked at.
    pub(super) checks: serde_json::Value,
}

/// The document. The members of the standard come first.
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
            closes: false,
        }
    }

    /// With what is wrong and where.
    pub(super) fn with_errors(self, errors: Vec<EventFault>) -> Self {
        Self { errors, ..self }
    }

    /// Ends the connection: what is left of the body is not to be taken for the next request.
    pub(super) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// With what works of the server, and what was looked at.
    pub(super) fn with_readiness(self, readiness: Readiness) -> Self {
        Self { readiness: Some(Box::new(readiness)), ..self }
    }

    /// The refusal of what a limit on memory or connections leaves no room for now.
    pub(super) fn overloaded(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Overloaded, detail).retry_after(RETRY_AFTER_S).closing()
    }

    fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The refusal of an append of so many events. `is_batch` tells whether the body was an array, so that places can be
    /// named.
    pub(super) fn from_append(error: broker::Error, events: usize, is_batch: bool) -> Self {
        let indices = match &error {
            broker::Error::Conflict(indices) => indices,
            broker::Error::Full { limit, .. } if events as u64 > *limit => {
                let detail =
                    format!("{events} events, and no more than {limit} may wait (broker.max_waiting): send fewer");
                return Self::new(ProblemKind::TooLarge, detail);
            }
            broker::Error::LaneFull { lane, limit, .. } if events as u64 > *limit => {
                let detail =
                    format!("{events} events, and no more than {limit} may wait in the lane {lane}: send fewer");
                return Self::new(ProblemKind::TooLarge, detail);
            }
            _ => return Self::from(error),
        };
        let fault = |index: &usize| {
            let pointer = if is_batch { format!("/{index}") } else { String::new() };
            EventFault::new(pointer, "under this key something else was accepted before")
        };
        let errors = indices.iter().map(fault).collect();
        let detail = "nothing was accepted; use a new key for a new event";
        Self::new(ProblemKind::IdempotencyKeyReused, detail).with_errors(errors)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.kind.parts().0
    }

    /// After how many seconds a sender may try again, if that makes sense.
    pub(super) fn retry_after_s(&self) -> Option<u64> {
        if self.kind == ProblemKind::NotReady { Some(RETRY_AFTER_S) } else { self.retry_after_s }
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> String {
        let (status, r#type, title) = self.kind.parts();
        let mut detail = shortened(&self.detail, MAX_DETAIL_BYTES);
        if self.errors.len() > MAX_ERRORS {
            detail = format!("{detail}; the first {MAX_ERRORS} of {} errors follow", self.errors.len()).into();
        }
        let error = |fault: &EventFault| {
            EventFault::new(shortened(&fault.pointer, MAX_POINTER_BYTES), shortened(&fault.message, MAX_MESSAGE_BYTES))
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

/// The text, or its beginning if it is longer than this.
fn shortened(text: &str, max_bytes: usize) -> Cow<'_, str> {
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
            broker::Error::Unavailable { reason, outcome_known: false } => {
                let detail = format!(
                    "{reason}; it is not known whether this took effect, so repeat it, events with the same Idempotency-Key"
                );
                Self {
                    outcome: Some("unknown"),
                    ..Self::new(ProblemKind::StoreUnavailable, detail).retry_after(RETRY_AFTER_S)
                }
            }
            broker::Error::Full { .. } | broker::Error::LaneFull { .. } | broker::Error::LaneHeavy { .. } => {
                Self::new(ProblemKind::QueueFull, error.to_string()).retry_after(RETRY_AFTER_S)
            }
            broker::Error::NoRoom(_) => {
                Self::new(ProblemKind::StoreFull, error.to_string()).retry_after(RETRY_AFTER_PERSON_S)
            }
            broker::Error::Unsafe(reason) => {
                Self::new(ProblemKind::StoreUnsafe, reason).retry_after(RETRY_AFTER_PERSON_S)
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
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        (self.status(), headers, self.body()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_a_type_of_its_own_and_is_a_refusal() {
        let types: HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.parts().1).collect();
        assert_eq!(types.len(), ProblemKind::ALL.len());
        for kind in ProblemKind::ALL {
            let (status, name, title) = kind.parts();
            assert!(status.is_client_error() || status.is_server_error(), "{kind:?}");
            assert!(name.starts_with("/problems/") && !title.is_empty(), "{kind:?}");
        }
    }

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
