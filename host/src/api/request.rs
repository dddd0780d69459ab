//! Reads what a request carries: the body, its media type, the idempotency key, the parameter of its path.
//!
//! A body must arrive within a size and a time. A client that is still sending may miss the answer if the connection closes.
//! So the rest of a body that is too large is read and discarded, up to a limit.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::Uri;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::api_state::ServerOptions;
use super::memory_budget::{MemoryBudget, MemoryCharge};
use super::problem::{Problem, ProblemKind};
use crate::event::media_type;

/// The longest idempotency key, in characters.
const MAX_IDEMPOTENCY_KEY_CHARS: usize = 256;
/// The most bytes of a body that are discarded, as a multiple of the largest body.
const MAX_DISCARD_FACTOR: usize = 16;
/// The longest time for which a body is discarded.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(1);

/// Why a request is refused that stalls while other clients wait for its connection.
pub(super) const STALLED: &str = "the request did not arrive further while other clients waited for a connection";

/// The one parameter of a path, decoded.
pub(super) struct PathParameter(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathParameter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(Problem::new(ProblemKind::NotFound, "the path is not UTF-8, so there is nothing at it")),
        }
    }
}

/// Reads the body of a request. It is charged until the last clone of the bytes is dropped.
///
/// # Errors
/// [`ProblemKind::TooLarge`], [`ProblemKind::RequestTimeout`], [`ProblemKind::Overloaded`], or
/// [`ProblemKind::MalformedBody`] for a body that ends early or breaks the rules of chunked bodies.
pub(super) async fn read_body(
    mut body: Body,
    options: &ServerOptions,
    memory: &MemoryBudget,
) -> Result<Bytes, Problem> {
    let max_bytes = options.max_body_bytes;
    let time = Duration::from_millis(options.body_timeout_ms);
    let collected = collect_body(&mut body, max_bytes, memory.new_charge());
    let read = tokio::time::timeout(time, collected).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} ms", options.body_timeout_ms);
        Err(Problem::new(ProblemKind::RequestTimeout, detail))
    });
    if let Some(read) = read? {
        return Ok(read);
    }
    // The refusal is the same whether or not the rest arrives in time.
    let _ = tokio::time::timeout(MAX_DISCARD_TIME.min(time), discard_rest(&mut body, max_bytes)).await;
    Err(Problem::new(ProblemKind::TooLarge, format!("a body has at most {max_bytes} bytes")))
}

/// Reads the body before the request is answered: a client that is still sending would miss an early refusal.
///
/// # Errors
/// Those of [`read_body`].
pub(super) async fn buffer_body(
    request: Request,
    options: &ServerOptions,
    memory: &MemoryBudget,
) -> Result<Request, Problem> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    Ok(Request::from_parts(parts, Body::from(read_body(body, options, memory).await?)))
}

/// Removes the slashes at the end of the path, which many clients and proxies add.
pub(super) fn without_trailing_slash(mut request: Request) -> Request {
    let uri = request.uri();
    let path = uri.path().trim_end_matches('/');
    if path.len() == uri.path().len() || path.is_empty() {
        return request;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{path}{query}").parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// Reads the whole body. Returns `None` as soon as it is certain to be too large.
async fn collect_body(body: &mut Body, max_bytes: usize, mut charge: MemoryCharge) -> Result<Option<Bytes>, Problem> {
    if body.size_hint().lower() > max_bytes as u64 {
        return Ok(None);
    }
    let whole_bytes = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(max_bytes);
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| describe_broken_body(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        let needed_bytes = read.len() + data.len();
        if needed_bytes > max_bytes {
            return Ok(None);
        }
        if needed_bytes > read.capacity() {
            let size_bytes = next_capacity(read.capacity(), needed_bytes, whole_bytes);
            charge.grow_to(size_bytes)?;
            read.reserve_exact(size_bytes - read.len());
        }
        read.extend_from_slice(&data);
    }
    Ok(Some(charge.attach(read)))
}

fn describe_broken_body(error: &axum::Error) -> Problem {
    tracing::debug!("the body of a request cannot be read: {error}");
    let mut causes = std::iter::successors(error.source(), |error| (*error).source());
    if causes.any(|cause| cause.downcast_ref().is_some_and(|cause: &io::Error| cause.kind() == ErrorKind::TimedOut)) {
        return Problem::new(ProblemKind::RequestTimeout, STALLED);
    }
    let detail = "the body ends early, or its chunks are not well-formed";
    Problem::new(ProblemKind::MalformedBody, detail).closing_connection()
}

/// The next capacity of the buffer. It doubles at most, so that a client must send bytes to make the server take memory.
fn next_capacity(capacity_bytes: usize, needed_bytes: usize, whole_bytes: usize) -> usize {
    capacity_bytes.saturating_mul(2).min(whole_bytes).max(needed_bytes)
}

/// Reads the rest of a body and discards it, up to a limit.
async fn discard_rest(body: &mut Body, max_bytes: usize) {
    let mut left_bytes = max_bytes.saturating_mul(MAX_DISCARD_FACTOR);
    if body.size_hint().lower() > left_bytes as u64 {
        return;
    }
    while left_bytes > 0
        && let Some(Ok(frame)) = body.frame().await
    {
        left_bytes = left_bytes.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
    }
}

/// Checks that the headers declare JSON in UTF-8 without compression.
///
/// # Errors
/// [`ProblemKind::UnsupportedMediaType`], which says what is accepted.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |detail: String| Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    let accepted = "events are sent as application/json, with curl by -H 'Content-Type: application/json'";
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return refused(format!("a body with Content-Encoding is not accepted; {accepted}, not compressed"));
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (content_type, None) = (types.next(), types.next()) else {
        return refused(format!("more than one Content-Type; {accepted}"));
    };
    let Some(content_type) = content_type else { return refused(format!("no Content-Type; {accepted}")) };
    let text = content_type.to_str().unwrap_or_default();
    if media_type::essence(text) != media_type::JSON {
        return refused(format!("{text:?} is not accepted; {accepted}"));
    }
    for parameter in text.split(';').skip(1) {
        if let Some((name, value)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("charset")
            && !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        {
            return refused(format!("{text:?} is not accepted; {accepted} in UTF-8"));
        }
    }
    Ok(())
}

/// Reads the `Idempotency-Key`, if there is one: a structured-field string, or the same without its quotes.
///
/// # Errors
/// [`ProblemKind::BadIdempotencyKey`] unless it is 1 to 256 visible characters of ASCII.
pub(super) fn read_idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(HeaderName::from_static("idempotency-key")).iter();
    let (Some(first), second) = (values.next(), values.next()) else { return Ok(None) };
    let text = first.to_str().ok().filter(|_| second.is_none()).map(str::trim);
    let idempotency_key = text.and_then(|text| match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted),
        None => Some(text.to_owned()),
    });
    let is_valid = |text: &String| {
        (1..=MAX_IDEMPOTENCY_KEY_CHARS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match idempotency_key.filter(is_valid) {
        Some(idempotency_key) => Ok(Some(idempotency_key)),
        None => {
            let detail = format!(
                "an Idempotency-Key is 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters, such as a UUID"
            );
            Err(Problem::new(ProblemKind::BadIdempotencyKey, detail))
        }
    }
}

/// The content of a structured-field string (RFC 8941), given the text after its opening quote.
fn unquote(quoted: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => break,
            '\\' => text.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => text.push(c),
        }
    }
    // Parameters may follow; they have no meaning here.
    let rest = chars.as_str();
    (rest.is_empty() || rest.starts_with(';')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&str]) -> Result<Option<String>, ()> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("idempotency-key", value.parse().unwrap());
        }
        read_idempotency_key(&headers).map_err(drop)
    }

    #[test]
    fn a_key_is_read_with_and_without_quotes() {
        assert_eq!(key(&[]), Ok(None));
        for (written, read) in [("abc", "abc"), ("\"abc\"", "abc"), ("\"a\\\"b\\\\\"", "a\"b\\"), ("\"a\";p=1", "a")] {
            assert_eq!(key(&[written]), Ok(Some(read.to_owned())), "{written}");
        }
        assert_eq!(key(&[&"x".repeat(256)]), Ok(Some("x".repeat(256))));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in ["", " ", "a b", "\"", "\"\"", "\"abc", "\"a\"b", "\"a\\b\"", &"x".repeat(257)] {
            assert_eq!(key(&[bad]), Err(()), "{bad:?}");
        }
        assert_eq!(key(&["a", "a"]), Err(()));
    }

    #[test]
    fn only_plain_json_is_meant_by_json() {
        let meant = |headers: &[(&'static str, &str)]| {
            let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            require_json(&HeaderMap::from_iter(headers)).is_ok()
        };
        for good in ["application/json", "Application/JSON", "application/json; charset=UTF-8", "application/json;a=b"]
        {
            assert!(meant(&[("content-type", good)]), "{good}");
        }
        for bad in ["text/plain", "application/jsonx", "application/json; charset=latin1", "", "application/xml"] {
            assert!(!meant(&[("content-type", bad)]), "{bad}");
        }
        assert!(!meant(&[]));
        assert!(!meant(&[("content-type", "application/json"), ("content-encoding", "gzip")]));
        assert!(meant(&[("content-type", "application/json"), ("content-encoding", "identity")]));
    }
}
