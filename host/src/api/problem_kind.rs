//! The kinds of problem: each has a status, a `type` and a title.
//!
//! The `type` is a promise, since programs tell refusals apart by it. Titles are for people and may change. The status 500
//! means that the server's operator must act.

use axum::http::StatusCode;

/// The kind of a refusal.
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

    /// The status, the `type` and the title.
    pub(super) fn parts(self) -> (StatusCode, &'static str, &'static str) {
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
}
