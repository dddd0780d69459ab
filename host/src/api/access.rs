//! What a request needs to be allowed: everybody who reaches the server may publish and read; whoever changes something else
//! must be a person or a program of this machine.
//!
//! A request is one of this machine if its connection comes from a loopback address, it names a loopback host, and nothing
//! says that it was passed on. A proxy on this machine that hides all of that cannot be told from a local program: it is the
//! proxy that must not pass such requests on.

use axum::extract::Request;
use axum::http::Method;
use axum::http::header::{FORWARDED, HOST, HeaderName, VIA};

use super::guard::{authority, is_local};
use super::problem::{Problem, ProblemKind};
use crate::event::SENT_BY_PLUGIN_HEADER;

/// What proxies add to the requests that they pass on.
const PASSED_ON: [HeaderName; 6] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// Why a request is not allowed, if it is not.
pub(super) fn refusal(request: &Request, is_local_peer: bool) -> Option<Problem> {
    if is_open(request.method(), request.uri().path()) {
        return None;
    }
    let headers = request.headers();
    let why = if headers.contains_key(SENT_BY_PLUGIN_HEADER) {
        "a plugin sent this request"
    } else if !is_local_peer {
        "this request comes from another machine"
    } else if !headers.get(HOST).and_then(authority).is_some_and(|host| is_local(&host)) {
        "this request names another host than localhost"
    } else if PASSED_ON.iter().any(|name| headers.contains_key(name)) {
        "a proxy passed this request on"
    } else {
        return None;
    };
    let detail = format!(
        "{why}; whatever is more than publishing and reading is done on the server's own machine, by way of \
         http://localhost:PORT"
    );
    Some(Problem::new(ProblemKind::NotPermitted, detail))
}

/// Whether a request only publishes or reads.
fn is_open(method: &Method, path: &str) -> bool {
    method.is_safe() || (*method == Method::POST && path.trim_end_matches('/') == "/events")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn refused(method: &str, path: &str, headers: &[(&str, &str)], is_local_peer: bool) -> Option<String> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        refusal(&request.body(Body::empty()).unwrap(), is_local_peer).map(|problem| problem.body())
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
            ("POST", "/plugins/a/rollback"),
            ("POST", "/plugins/a/approve"),
            ("DELETE", "/plugins/a"),
            ("POST", "/events/1"),
            ("PUT", "/what/comes/later"),
        ] {
            for host in ["localhost:3000", "127.0.0.1", "[::1]:3000", "a.localhost"] {
                assert_eq!(refused(method, path, &[("host", host)], true), None, "{method} {path} to {host}");
            }
            for (headers, is_local_peer, why) in [
                (&[local][..], false, "another machine"),
                (&[("host", "events.example")], true, "another host"),
                (&[], true, "another host"),
                (&[local, ("x-forwarded-for", "127.0.0.1")], true, "a proxy"),
                (&[local, ("forwarded", "for=1.2.3.4")], true, "a proxy"),
                (&[local, ("via", "1.1 proxy")], true, "a proxy"),
                (&[local, (SENT_BY_PLUGIN_HEADER, "1")], true, "a plugin"),
            ] {
                let words = refused(method, path, headers, is_local_peer).unwrap();
                assert!(words.contains(why) && words.contains("not-permitted"), "{method} {path}: {words}");
            }
        }
    }
}
