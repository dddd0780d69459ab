//! The kinds of problem: each has a status, a `type` and a title.
//!
//! The `type` is a promise, since programs tell refusals apart by it. Titles are for people and may change. The status 500
//! means that the server's operator must act.

use axum::http::StatusCode;

macro_rules! problem_kinds {
    ($($kind:ident = $status:ident, $name:literal, $title:literal;)+) => {
        /// The kind of a refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum ProblemKind {
            $($kind,)+
        }

        impl ProblemKind {
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$kind,)+];

            /// The status, the `type` and the title.
            pub(super) fn parts(self) -> (StatusCode, &'static str, &'static str) {
                match self {
                    $(Self::$kind => (StatusCode::$status, concat!("/problems/", $name), $title),)+
                }
            }
        }
    };
}

problem_kinds! {
    BadRequest = BAD_REQUEST, "bad-request", "The request is not well-formed";
    BadQuery = BAD_REQUEST, "bad-query", "The query is not understood";
    BadIdempotencyKey = BAD_REQUEST, "bad-idempotency-key", "The Idempotency-Key is not well-formed";
    MalformedBody = BAD_REQUEST, "malformed-body", "The body cannot be read";
    CrossSite = FORBIDDEN, "cross-site", "Other sites may not change anything here";
    ForeignHost = FORBIDDEN, "foreign-host", "This server has another name";
    KeyMissing = UNAUTHORIZED, "key-missing", "A key is needed";
    KeyRefused = UNAUTHORIZED, "key-refused", "The key is not valid";
    NotPermitted = FORBIDDEN, "not-permitted", "Not everybody may do this";
    NotFound = NOT_FOUND, "not-found", "There is no such thing";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "This cannot be done here";
    NotAcceptable = NOT_ACCEPTABLE, "not-acceptable", "Nothing here is of an accepted media type";
    RequestTimeout = REQUEST_TIMEOUT, "request-timeout", "The request took too long";
    NotFailed = CONFLICT, "not-failed", "The event has not failed";
    NotWaiting = CONFLICT, "not-waiting", "The event does not wait";
    NotRolledBack = CONFLICT, "not-rolled-back", "The plugin cannot be rolled back";
    NotApproved = CONFLICT, "not-approved", "The build cannot be approved";
    KeyNotChanged = CONFLICT, "key-not-changed", "The key cannot be changed";
    TooManyKeys = CONFLICT, "too-many-keys", "There are too many keys";
    TooManyPauses = CONFLICT, "too-many-pauses", "There are too many pauses";
    NotRemoved = CONFLICT, "not-removed", "The plugin cannot be removed";
    TooLarge = PAYLOAD_TOO_LARGE, "too-large", "The body is too large";
    UriTooLong = URI_TOO_LONG, "uri-too-long", "The address is too long";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The media type is not accepted";
    InvalidEvent = UNPROCESSABLE_ENTITY, "invalid-event", "The event is not valid";
    InvalidKey = UNPROCESSABLE_ENTITY, "invalid-key", "The key is not described well";
    InvalidChange = UNPROCESSABLE_ENTITY, "invalid-change", "The change is not described well";
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, "idempotency-key-reused",
        "The idempotency key was used before with another body";
    RateLimited = TOO_MANY_REQUESTS, "rate-limited", "Too many requests";
    QueueFull = TOO_MANY_REQUESTS, "queue-full", "Too many events wait";
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, "headers-too-large", "The headers of the request are too large";
    Internal = INTERNAL_SERVER_ERROR, "internal", "The server has made a mistake";
    StoreMisconfigured = INTERNAL_SERVER_ERROR, "store-misconfigured", "The store is not set up";
    StoreFull = SERVICE_UNAVAILABLE, "store-full", "The store has no room left";
    StoreUnavailable = SERVICE_UNAVAILABLE, "store-unavailable", "The store cannot be reached";
    StoreUnsafe = SERVICE_UNAVAILABLE, "store-unsafe", "The store would not keep what it is given";
    StoreBusy = SERVICE_UNAVAILABLE, "store-busy", "Too much is asked of the store at a time";
    NotReady = SERVICE_UNAVAILABLE, "not-ready", "The server is not ready";
    Overloaded = SERVICE_UNAVAILABLE, "overloaded", "The server has too much under way";
    UnknownCoding = NOT_IMPLEMENTED, "unknown-coding", "The transfer coding is not supported";
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
