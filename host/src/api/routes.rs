//! The routes of the API: one table with what each of them asks of a client.
//!
//! The router, the refusals of clients and the tests are made from it. A route without a [`RouteAccess`] does not compile,
//! and a path that is not in the table reaches no handler.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{ALLOW, HeaderValue};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};

use super::api_state::ApiState;
use super::problem::{Problem, ProblemKind};
use super::{audit, event_changes, events, failed_events, health, keys, metrics, pauses, plugins};
use crate::api_key::Scope;

/// What a route asks of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteAccess {
    /// Nothing.
    Open,
    /// The right to do this.
    Needs(Scope),
    /// The right to read, unless everybody may read the metrics.
    Metrics,
    /// Any right.
    AnyCaller,
}

/// A method on a path.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// The path; a part such as `{id}` is any text.
    pub(super) path: &'static str,
    pub(super) access: RouteAccess,
}

macro_rules! routes {
    ($($method:ident $path:literal $access:expr => $handler:path;)+) => {
        /// Every route. `GET` answers `HEAD` as well.
        pub(super) static ROUTES: &[Route] = &[$(Route { method: Method::$method, path: $path, access: $access }),+];

        /// The router of the table.
        pub(super) fn router(api: Arc<ApiState>) -> Router {
            Router::new()$(.route($path, on(MethodFilter::$method, $handler)))+.with_state(api)
        }
    };
}

use RouteAccess::{AnyCaller, Metrics, Needs, Open};
use Scope::{Deploy, Keys, Operate, Publish, Read};

routes! {
    POST "/events" Needs(Publish) => events::publish;
    GET "/events" Needs(Read) => events::list;
    GET "/events/{id}" Needs(Read) => events::show;
    POST "/events/{id}/run-now" Needs(Operate) => event_changes::run_now;
    POST "/events/{id}/cancel" Needs(Operate) => event_changes::cancel;
    GET "/failed-events" Needs(Read) => failed_events::list;
    GET "/failed-events/{id}" Needs(Read) => failed_events::show;
    DELETE "/failed-events/{id}" Needs(Operate) => failed_events::discard;
    POST "/failed-events/{id}/replay" Needs(Operate) => failed_events::replay;
    GET "/metrics" Metrics => metrics::show;
    GET "/plugins" Needs(Read) => plugins::list;
    GET "/plugins/{name}" Needs(Read) => plugins::show;
    DELETE "/plugins/{name}" Needs(Deploy) => plugins::remove;
    POST "/plugins/{name}/approve" Needs(Deploy) => plugins::approve;
    POST "/plugins/{name}/pause" Needs(Operate) => pauses::pause;
    POST "/plugins/{name}/resume" Needs(Operate) => pauses::resume;
    POST "/plugins/{name}/rollback" Needs(Deploy) => plugins::rollback;
    GET "/keys" Needs(Keys) => keys::list;
    POST "/keys" Needs(Keys) => keys::create;
    DELETE "/keys/{id}" Needs(Keys) => keys::revoke;
    POST "/keys/{id}/rotate" Needs(Keys) => keys::rotate;
    GET "/audit" Needs(Operate) => audit::list;
    GET "/whoami" AnyCaller => keys::show_caller;
    GET "/livez" Open => health::live;
    GET "/readyz" Open => health::ready;
}

impl Route {
    /// Whether this is `POST /events`, which nearly every request takes.
    pub(super) fn is_publish(&self) -> bool {
        std::ptr::eq(self, &ROUTES[0])
    }

    /// The route of a request, whose path has no slash at its end.
    pub(super) fn find(method: &Method, path: &str) -> Option<&'static Self> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        ROUTES.iter().find(|route| route.method == *method && matches_path(route.path, path))
    }
}

fn matches_path(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if pattern.starts_with('{') && !part.is_empty() => {}
            (Some(pattern), Some(part)) if pattern == part => {}
            _ => return false,
        }
    }
}

/// Refuses a request that has no route: the path is unknown, or its method.
pub(super) fn refuse_unrouted(method: &Method, uri: &Uri) -> Response {
    let path = uri.path();
    let allowed: Vec<_> =
        ROUTES.iter().filter(|route| matches_path(route.path, path)).map(|route| route.method.as_str()).collect();
    if allowed.is_empty() {
        let detail = format!("there is nothing at {path:?}; events are sent to POST /events");
        return Problem::new(ProblemKind::NotFound, detail).into_response();
    }
    let detail = format!("{path:?} does not support {method}; the header Allow lists what it supports");
    let mut response = Problem::new(ProblemKind::MethodNotAllowed, detail).into_response();
    let allowed = allowed.join(",").replace("GET", "GET,HEAD");
    response.headers_mut().extend(HeaderValue::from_str(&allowed).ok().map(|allowed| (ALLOW, allowed)));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_one_route() {
        for (place, route) in ROUTES.iter().enumerate() {
            let path = route.path.replace("{id}", "a%20b").replace("{name}", "{id}");
            let found: Vec<_> = (0..ROUTES.len())
                .filter(|other| ROUTES[*other].method == route.method && matches_path(ROUTES[*other].path, &path))
                .collect();
            assert_eq!(found, [place], "{path}");
        }
        let publishing: Vec<_> = ROUTES.iter().filter(|route| route.is_publish()).map(|route| route.path).collect();
        assert_eq!((publishing, &ROUTES[0].method), (vec!["/events"], &Method::POST));
    }

    #[test]
    fn what_is_nearly_a_route_is_none() {
        for path in
            ["", "/", "//events", "/events/", "/events//", "/Events", "/%65vents", "/plugins//approve", "events"]
        {
            for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE] {
                assert!(Route::find(&method, path).is_none(), "{method} {path:?}");
            }
        }
        assert!(Route::find(&Method::HEAD, "/events").is_some() && Route::find(&Method::OPTIONS, "/events").is_none());
    }
}
