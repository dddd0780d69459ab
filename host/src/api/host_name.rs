//! The host that a request names, and whether only this machine can be meant by it.

use std::net::IpAddr;

use axum::http::HeaderValue;
use axum::http::uri::Authority;

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
