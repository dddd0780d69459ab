//! Surrounds every handler: refuses requests that no handler should see, turns a panic into an answer, and adds the headers
//! that every answer has.
//!
//! The limits on what is read at all are kept in `server`. Those here can be answered with a problem document.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONNECTION, HOST, HeaderMap, HeaderName, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::access::{is_local_host, parse_host};
use super::caller::Caller;
use super::problem::{Problem, ProblemKind};

/// The most headers of a request.
const MAX_HEADERS: usize = 64;
/// The most bytes of all headers of a request.
const MAX_HEADERS_BYTES: usize = 32 * 1024;
/// The longest path and query of a request.
const MAX_URI_BYTES: usize = 8 * 1024;

/// An extension that the connection adds to a request whose head can be read but not trusted, with the reason.
#[derive(Clone, Debug)]
pub(super) struct UntrustedHead(pub(super) ProblemKind, pub(super) &'static str);

/// Checks a request, finds out by `admit` who sent it, and answers it by `handle` or with a refusal.
pub(super) async fn answer_guarded(
    request: Request,
    only_local: bool,
    admit: impl FnOnce(&Request) -> Result<Caller, Problem>,
    handle: impl AsyncFnOnce(Request, Caller) -> Response,
) -> Response {
    let checked = check_request(&request, only_local).and_then(|()| admit(&request));
    let mut response = match checked {
        Err(problem) => {
            let mut response = problem.into_response();
            // The bytes after such a request may not be the next request.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
        Ok(caller) => match AssertUnwindSafe(handle(request, caller)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                Problem::new(ProblemKind::Internal, "a part of the server failed; its log says more").into_response()
            }
        },
    };
    if matches!(response.status(), StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
        // The rest of the body was not read. It must not be taken for the next request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    add_common_headers(response)
}

/// Adds the headers that every answer has.
pub(super) fn add_common_headers(mut response: Response) -> Response {
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn check_request(request: &Request, only_local: bool) -> Result<(), Problem> {
    let headers = request.headers();
    if let Some(UntrustedHead(kind, reason)) = request.extensions().get() {
        return Err(Problem::new(*kind, *reason));
    }
    let uri_bytes = request.uri().path_and_query().map_or(0, |it| it.as_str().len());
    let headers_bytes = headers_bytes(headers);
    if uri_bytes > MAX_URI_BYTES {
        let detail = format!("the address has {uri_bytes} bytes, of at most {MAX_URI_BYTES}");
        return Err(Problem::new(ProblemKind::UriTooLong, detail));
    }
    if headers.len() > MAX_HEADERS || headers_bytes > MAX_HEADERS_BYTES {
        let count = headers.len();
        let detail = format!(
            "the request has {count} headers, of at most {MAX_HEADERS}, with {headers_bytes} bytes, of at most \
             {MAX_HEADERS_BYTES}"
        );
        return Err(Problem::new(ProblemKind::HeadersTooLarge, detail));
    }
    check_host(request, only_local)?;
    if is_cross_site(request.method(), headers) {
        return Err(Problem::new(ProblemKind::CrossSite, "a page of another site sent this request"));
    }
    Ok(())
}

fn check_host(request: &Request, only_local: bool) -> Result<(), Problem> {
    let bad = |detail: &str| Err(Problem::new(ProblemKind::BadRequest, detail));
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next(), request.version()) {
        (_, Some(_), _) => return bad("more than one Host"),
        (None, None, Version::HTTP_11) => return bad("no Host"),
        (host, None, _) => host,
    };
    match host.map(parse_host) {
        Some(None) => return bad("the Host is not a host"),
        Some(Some(authority)) if only_local && !is_local_host(&authority) => {
            let detail = "this server serves only its own machine, as localhost or a loopback address; to serve other names, \
                          make a key (eventstream key new) or start it with --allow-anonymous (auth.allow_anonymous)";
            return Err(Problem::new(ProblemKind::ForeignHost, detail));
        }
        _ => {}
    }
    let named = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if named.is_some() && named != host.map(HeaderValue::as_bytes) {
        return bad("the address and the Host name different hosts; this server is not a proxy");
    }
    Ok(())
}

/// The size of the headers: of each the name, the value and four bytes for the colon, the blank and the line end.
fn headers_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Whether a browser sent a request that changes something for a page of another site. Current browsers send
/// `Sec-Fetch-Site`, older ones only `Origin`. Other programs send neither and pass.
fn is_cross_site(method: &Method, headers: &HeaderMap) -> bool {
    if method.is_safe() {
        return false;
    }
    let value = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    match (value(HeaderName::from_static("sec-fetch-site")), value(ORIGIN)) {
        (Some(site), _) => site != b"same-origin" && site != b"none",
        (None, Some(origin)) => {
            let host = [&b"http://"[..], b"https://"].iter().find_map(|scheme| origin.strip_prefix(*scheme));
            host.is_none() || host != value(HOST)
        }
        (None, None) => false,
    }
}
