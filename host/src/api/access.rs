//! Who may do what: a key says it. Until there is one, every client may publish and read, and whoever is on this machine may
//! do everything.
//!
//! A request is local if it comes from a loopback address, names a loopback host and carries no header of a proxy. A proxy on
//! this machine that adds no such header looks like a local program. Such a proxy must not pass these requests on.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, FORWARDED, HOST, HeaderName, VIA};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue};

use super::api_state::ServerOptions;
use super::auth_failures::AuthFailure;
use super::caller::Caller;
use super::key_ring::{KeyRing, RefusedKey};
use super::problem::{Problem, ProblemKind};
use super::routes::{Route, RouteAccess};
use crate::api_key::{Scope, ScopeSet};
use crate::clock;
use crate::event::SENT_BY_PLUGIN_HEADER;

/// The headers that proxies add, besides those that begin or end as below.
const PROXY_HEADERS: [HeaderName; 3] = [FORWARDED, VIA, HeaderName::from_static("x-real-ip")];
/// How other headers of proxies begin, such as `X-Forwarded-For` and `X-Original-Forwarded-For`.
const PROXY_PREFIXES: [&str; 2] = ["x-forwarded-", "x-original-"];
/// How other headers of proxies end. Each vendor has its own, such as `Fastly-Client-IP` and `CF-Connecting-IP`.
const PROXY_SUFFIXES: [&str; 2] = ["-client-ip", "-connecting-ip"];
/// The scheme of the header `Authorization`.
const BEARER: &[u8] = b"bearer ";

/// Finds out who sent a request, and checks that they may use its route. Asks no store.
///
/// # Errors
/// [`ProblemKind::KeyMissing`], [`ProblemKind::KeyRefused`] or [`ProblemKind::NotPermitted`], with what is missing;
/// [`ProblemKind::RateLimited`] after too many refused keys, or too many requests that the key does not allow.
pub(super) fn admit(
    request: &Request,
    route: Option<&Route>,
    client: IpAddr,
    keys: &KeyRing,
    options: &ServerOptions,
) -> Result<Caller, Problem> {
    let headers = request.headers();
    let needed = match route.map(|route| route.access) {
        Some(RouteAccess::Open) => return Ok(Caller::Anonymous(ScopeSet::NONE)),
        Some(RouteAccess::Metrics) if options.open_metrics => return Ok(Caller::Anonymous(ScopeSet::NONE)),
        Some(RouteAccess::Metrics) => Some(Scope::Read),
        Some(RouteAccess::Needs(scope)) => Some(scope),
        Some(RouteAccess::AnyCaller) | None => None,
    };
    if !keys.are_needed() {
        let admitted = admit_without_keys(request, route, needed, client);
        return admitted.inspect_err(|_| keys.failures.note(AuthFailure::NotPermitted));
    }
    let sent = bearer(headers).inspect_err(|_| keys.failures.note(AuthFailure::Malformed))?;
    let Some(text) = sent else {
        let scopes = if options.allow_anonymous { ScopeSet::ANONYMOUS } else { ScopeSet::NONE };
        return match needed {
            Some(scope) if scopes.has(scope) => Ok(Caller::Anonymous(scopes)),
            None if options.allow_anonymous => Ok(Caller::Anonymous(scopes)),
            _ => {
                keys.failures.note(AuthFailure::Missing);
                Err(key_missing(request, route, needed))
            }
        };
    };
    let now = clock::now();
    let found = keys.find(text, now).inspect_err(|refused| keys.failures.note(refused.failure()));
    let key = found.map_err(|refused| match refused {
        RefusedKey::NotRead => Problem::new(ProblemKind::StoreUnavailable, refused.to_string()),
        refused => {
            tracing::warn!("{client} sent a key that is refused: {refused}");
            let unix_s = u64::try_from(now.unix_ms() / 1_000).unwrap_or_default();
            match keys.tries.note(client, unix_s) {
                Ok(()) => Problem::new(ProblemKind::KeyRefused, refused.to_string()),
                Err(wait_s) => Problem::rate_limited("this client sent too many keys that are not valid", wait_s),
            }
        }
    })?;
    let caller = Caller::Key(key.clone());
    match needed {
        Some(scope) if !key.rights.scopes.has(scope) => {
            // Counts here, since the request gets no further.
            if let Some(turn) = caller.take_turn(keys) {
                turn.check()?;
            }
            keys.failures.note(AuthFailure::NotPermitted);
            let detail = format!(
                "{} needs a key with the scope {scope}, and {} has only {}: make one (eventstream key new NAME --scopes \
                 {scope})",
                describe(request, route),
                key.describe(),
                key.rights.scopes
            );
            Err(Problem::not_permitted(detail, Some(scope)))
        }
        _ => Ok(caller),
    }
}

/// The rules while nobody has made a key.
fn admit_without_keys(
    request: &Request,
    route: Option<&Route>,
    needed: Option<Scope>,
    client: IpAddr,
) -> Result<Caller, Problem> {
    let Some(reason) = why_not_local(request.headers(), client) else { return Ok(Caller::Local) };
    // Without a route, a request changes nothing if its method is safe.
    if needed.map_or(route.is_some() || request.method().is_safe(), |scope| ScopeSet::ANONYMOUS.has(scope)) {
        return Ok(Caller::Anonymous(ScopeSet::ANONYMOUS));
    }
    let scope = needed.map(|scope| format!(" with the scope {scope}")).unwrap_or_default();
    let detail = format!(
        "{reason}; without a key, other machines may only publish and read. {} needs a key{scope}: make one (eventstream key \
         new), or send this request on the server's own machine, to http://localhost:PORT",
        describe(request, route)
    );
    Err(Problem::not_permitted(detail, needed))
}

/// Why a request does not come from a person or a program on this machine; `None` if it does.
fn why_not_local(headers: &HeaderMap, client: IpAddr) -> Option<&'static str> {
    if headers.contains_key(SENT_BY_PLUGIN_HEADER) {
        Some("a plugin sent this request")
    } else if !client.to_canonical().is_loopback() {
        Some("this request comes from another machine")
    } else if !headers.get(HOST).and_then(parse_host).is_some_and(|host| is_local_host(&host)) {
        Some("this request names another host than localhost")
    } else if headers.keys().any(is_from_proxy) {
        Some("a proxy passed this request on")
    } else {
        None
    }
}

/// The key that the client sent, if it sent one. Another scheme than `Bearer` is for somebody else, such as a proxy.
fn bearer(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), second) = (values.next(), values.next()) else { return Ok(None) };
    if second.is_some() {
        return Err(Problem::new(ProblemKind::KeyRefused, "the request has more than one header Authorization"));
    }
    let value = value.as_bytes();
    let scheme = value.get(..BEARER.len());
    Ok(scheme.filter(|scheme| scheme.eq_ignore_ascii_case(BEARER)).map(|_| value[BEARER.len()..].trim_ascii()))
}

fn key_missing(request: &Request, route: Option<&Route>, needed: Option<Scope>) -> Problem {
    let scope = needed.map(|scope| format!(" with the scope {scope}")).unwrap_or_default();
    let detail = format!(
        "{} needs a key{scope}: send the header Authorization: Bearer KEY; eventstream takes the key from EVENTSTREAM_KEY or \
         EVENTSTREAM_KEY_FILE",
        describe(request, route)
    );
    Problem::new(ProblemKind::KeyMissing, detail)
}

/// The route as text. A path that has none is not repeated.
fn describe(request: &Request, route: Option<&Route>) -> String {
    route.map_or_else(|| format!("{} there", request.method()), |route| format!("{} {}", route.method, route.path))
}

fn is_from_proxy(name: &HeaderName) -> bool {
    let text = name.as_str();
    PROXY_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        || PROXY_SUFFIXES.iter().any(|suffix| text.ends_with(suffix))
        || PROXY_HEADERS.contains(name)
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
    use crate::api::tests::client::new_api;

    fn refused(method: &str, path: &str, headers: &[(&str, &str)], is_local_client: bool) -> Option<String> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let route = Route::find(&method.parse().unwrap(), path);
        let client = if is_local_client { "::ffff:127.0.0.1" } else { "10.0.0.1" }.parse().unwrap();
        let (api, _) = new_api();
        let admitted = admit(&request.body(Body::empty()).unwrap(), route, client, &api.keys, &api.options);
        admitted.err().map(|problem| problem.body())
    }

    #[test]
    fn everybody_may_publish_and_read() {
        for (method, path) in [("POST", "/events"), ("GET", "/nothing"), ("GET", "/plugins"), ("HEAD", "/metrics")] {
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
                (&[local, (SENT_BY_PLUGIN_HEADER, "1")], true, "a plugin"),
            ] {
                let words = refused(method, path, headers, is_local_client).unwrap();
                assert!(words.contains(why) && words.contains("not-permitted"), "{method} {path}: {words}");
            }
        }
    }

    #[test]
    fn a_request_with_the_header_of_any_known_proxy_is_not_local() {
        for name in [
            "cf-connecting-ip",
            "fastly-client-ip",
            "fly-client-ip",
            "true-client-ip",
            "x-client-ip",
            "x-cluster-client-ip",
            "x-forwarded-host",
            "x-original-forwarded-for",
            "x-real-ip",
        ] {
            let headers = [("host", "localhost:3000"), (name, "1.2.3.4")];
            let words = refused("DELETE", "/plugins/a", &headers, true);
            assert!(words.as_ref().is_some_and(|words| words.contains("a proxy")), "{name}: {words:?}");
        }
        let usual = [("host", "localhost:3000"), ("user-agent", "x"), ("accept", "*/*"), ("x-client-version", "1")];
        assert_eq!(refused("DELETE", "/plugins/a", &usual, true), None);
    }
}
