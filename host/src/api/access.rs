//! Who may do what: every client may publish and read. Everything else needs a person or a program on this machine.
//!
//! A request is local if it comes from a loopback address, names a loopback host and carries no header of a proxy. A proxy on
//! this machine that adds no such header looks like a local program. Such a proxy must not pass these requests on.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{FORWARDED, HOST, HeaderName, VIA};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method};

use super::problem::{Problem, ProblemKind};
use crate::event::SENT_BY_PLUGIN_HEADER;

/// The headers that proxies add, besides those that begin with [`FORWARDED_PREFIX`].
const PROXY_HEADERS: [HeaderName; 6] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("cf-connecting-ip"),
];
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Checks that the client may send this request.
///
/// # Errors
/// [`ProblemKind::NotPermitted`], with the reason.
pub(super) fn check_access(request: &Request, is_local_client: bool) -> Result<(), Problem> {
    if is_open_to_all(request.method(), request.uri().path()) {
        return Ok(());
    }
    let headers = request.headers();
    let reason = if headers.contains_key(SENT_BY_PLUGIN_HEADER) {
        "a plugin sent this request"
    } else if !is_local_client {
        "this request comes from another machine"
    } else if !headers.get(HOST).and_then(parse_host).is_some_and(|host| is_local_host(&host)) {
        "this request names another host than localhost"
    } else if headers.keys().any(is_from_proxy) {
        "a proxy passed this request on"
    } else {
        return Ok(());
    };
    let detail = format!(
        "{reason}; other machines may only publish and read: send this request on the server's own machine, to \
         http://localhost:PORT"
    );
    Err(Problem::new(ProblemKind::NotPermitted, detail))
}

fn is_from_proxy(name: &HeaderName) -> bool {
    name.as_str().starts_with(FORWARDED_PREFIX) || PROXY_HEADERS.contains(name)
}

/// Whether a request only publishes or reads.
fn is_open_to_all(method: &Method, path: &str) -> bool {
    method.is_safe() || (*method == Method::POST && path.trim_end_matches('/') == "/events")
}

/// Parses the value of a `Host` header; `None` if it is not a host name with an optional port.
pub(super) fn parse_host(value: &HeaderValue) -> Option<Authority> {
    let authority: Authority = value.to_str().ok()?.parse().ok()?;
    Some(authority).filter(|authority| !authority.as_str().contains('@'))
}

/// Whether the name is `localhost`, a name under it, or a loopback address.
///
/// A DNS rebinding attack points a name of its own at this machine. To the browser such a page is of the same origin; only
/// the name gives it away.
pub(super) fn is_local_host(authority: &Authority) -> bool {
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let is_loopback = name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    is_loopback || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn refused(method: &str, path: &str, headers: &[(&str, &str)], is_local_client: bool) -> Option<String> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check_access(&request.body(Body::empty()).unwrap(), is_local_client).err().map(|problem| problem.body())
    }

    #[test]
    fn everybody_may_publish_and_read() {
        for (method, path) in [("POST", "/events"), ("POST", "/events/"), ("GET", "/plugins"), ("HEAD", "/metrics")] {
            let headers = [("host", "events.example"), (SENT_BY_PLUGIN_HEADER, "1"), ("x-forwarded-for", "1.2.3.4")];
            assert_eq!(refused(method, path, &headers, false), None, "{method} {path}");
        }
    }

    #[test]
    fn everything_else_is_for_this_machine() {
        let local = ("host", "localhost:3000");
        for (method, path) in [
            ("POST", "/failed-events/1/replay"),
            ("DELETE", "/failed-events/1"),
            ("POST", "/plugins/a/rollback"),
            ("POST", "/plugins/a/approve"),
            ("DELETE", "/plugins/a"),
            ("POST", "/events/1"),
            ("PUT", "/what/comes/later"),
        ] {
            for host in ["localhost:3000", "127.0.0.1", "[::1]:3000", "a.localhost"] {
                assert_eq!(refused(method, path, &[("host", host)], true), None, "{method} {path} to {host}");
            }
            for (headers, is_local_client, why) in [
                (&[local][..], false, "another machine"),
                (&[("host", "events.example")], true, "another host"),
                (&[], true, "another host"),
                (&[local, ("x-forwarded-for", "127.0.0.1")], true, "a proxy"),
                (&[local, ("forwarded", "for=1.2.3.4")], true, "a proxy"),
                (&[local, ("via", "1.1 proxy")], true, "a proxy"),
                (&[local, ("x-forwarded-port", "443")], true, "a proxy"),
                (&[local, ("cf-connecting-ip", "1.2.3.4")], true, "a proxy"),
                (&[local, (SENT_BY_PLUGIN_HEADER, "1")], true, "a plugin"),
            ] {
                let words = refused(method, path, headers, is_local_client).unwrap();
                assert!(words.contains(why) && words.contains("not-permitted"), "{method} {path}: {words}");
            }
        }
    }
}
