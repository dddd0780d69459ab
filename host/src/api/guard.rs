//! What surrounds every handler: requests that no handler should see are refused, a panic becomes an answer, and every
//! answer carries the headers that all of them carry.
//!
//! The server's limits on what it reads at all are in `connection`; these here are the ones that can be answered with a
//! document.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONNECTION, HOST, HeaderMap, HeaderName, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::access;
use super::problem::{Problem, ProblemKind};

/// The most headers of a request.
const MAX_HEADERS: usize = 64;
/// The most bytes of all headers of a request.
const MAX_HEADERS_BYTES: usize = 32 * 1024;
/// The longest address.
const MAX_URI_BYTES: usize = 8 * 1024;

/// Put by the connection beside a request whose head is readable but must not be trusted; says why.
#[derive(Clone, Debug)]
pub(super) struct UntrustedHead(pub(super) ProblemKind, pub(super) &'static str);

/// What surrounds all routes.
pub(super) async fn guard(
    request: Request,
    only_local: bool,
    is_local_peer: bool,
    handle: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let refused = refusal(&request, only_local).or_else(|| access::refusal(&request, is_local_peer));
    let mut response = match refused {
        Some(problem) => {
            let mut response = problem.into_response();
            // What follows on this connection may not be what it seems to be.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
        None => match AssertUnwindSafe(handle(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                Problem::new(ProblemKind::Internal, "a part of the server failed; its log says more").into_response()
            }
        },
    };
    if matches!(response.status(), StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
        // The rest of the body was not read, and is not to be taken for the next request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    finish(response)
}

/// Adds the headers that every answer has.
pub(super) fn finish(mut response: Response) -> Response {
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn refusal(request: &Request, only_local: bool) -> Option<Problem> {
    let bad = |detail: &str| Some(Problem::new(ProblemKind::BadRequest, detail));
    let headers = request.headers();
    if let Some(UntrustedHead(kind, why)) = request.extensions().get() {
        return Some(Problem::new(*kind, *why));
    }
    let uri_bytes = request.uri().path_and_query().map_or(0, |it| it.as_str().len());
    let headers_bytes = headers_bytes(headers);
    if uri_bytes > MAX_URI_BYTES {
        let detail = format!("{uri_bytes} bytes; an address has at most {MAX_URI_BYTES}");
        return Some(Problem::new(ProblemKind::UriTooLong, detail));
    }
    if headers.len() > MAX_HEADERS || headers_bytes > MAX_HEADERS_BYTES {
        let detail = format!(
            "{} headers of {headers_bytes} bytes; a request has at most {MAX_HEADERS} of {MAX_HEADERS_BYTES}",
            headers.len()
        );
        return Some(Problem::new(ProblemKind::HeadersTooLarge, detail));
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next(), request.version()) {
        (_, Some(_), _) => return bad("more than one Host"),
        (None, None, Version::HTTP_11) => return bad("no Host"),
        (host, None, _) => {
            match host.map(authority) {
                Some(None) => return bad("the Host is not a host"),
                Some(Some(authority)) if only_local && !is_local(&authority) => {
                    let detail = "this server serves its own machine, under localhost or a loopback address; to be reached under \
                         another name it is started with --allow-anonymous (auth.allow_anonymous)";
                    return Some(Problem::new(ProblemKind::ForeignHost, detail));
                }
                _ => {}
            }
            let host = host.map(HeaderValue::as_bytes);
            let named = request.uri().authority().map(|authority| authority.as_str().as_bytes());
            if named.is_some() && named != host {
                return bad("the address names another host than Host does; this is not a proxy");
            }
        }
    }
    if is_foreign(request.method(), headers) {
        return Some(Problem::new(ProblemKind::CrossSite, "a page of another site sent this request"));
    }
    None
}

/// As the limits are meant: names, values and four bytes between and behind them.
fn headers_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// The name and port of a `Host`, if it is one.
pub(super) fn authority(host: &HeaderValue) -> Option<Authority> {
    let authority: Authority = host.to_str().ok()?.parse().ok()?;
    Some(authority).filter(|authority| !authority.as_str().contains('@'))
}

/// Whether the name is one that only this machine itself can mean. A page whose name was made to lead here (DNS rebinding)
/// is same-origin to its browser and is told by its name alone.
pub(super) fn is_local(authority: &Authority) -> bool {
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let is_loopback = name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    is_loopback || name == "localhost" || name.ends_with(".localhost")
}

/// Whether a browser sent a request that changes something on behalf of another site. Browsers say so, older ones by the
/// origin alone; programs say nothing and are let through.
fn is_foreign(method: &Method, headers: &HeaderMap) -> bool {
    if method.is_safe() {
        return false;
    }
    let named = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    match (named(HeaderName::from_static("sec-fetch-site")), named(ORIGIN)) {
        (Some(site), _) => site != b"same-origin" && site != b"none",
        (None, Some(origin)) => {
            let host = [&b"http://"[..], b"https://"].iter().find_map(|scheme| origin.strip_prefix(*scheme));
            host.is_none() || host != named(HOST)
        }
        (None, None) => false,
    }
}
