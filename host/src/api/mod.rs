//! The HTTP interface: events in, their stories out (contract section 4).
//!
//! Handlers translate and nothing else: what comes in is judged by `event`, kept by the broker, and every refusal is a
//! problem document. Nothing here knows which broker it is, or what a plugin is made of.

mod access;
mod admission;
mod automatic;
mod connection;
mod events;
mod failed_events;
mod guard;
mod health;
mod intake;
mod memory;
mod metrics;
mod options;
mod plugins;
mod problem;
mod query;
mod server;
mod starting;
mod view;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;

pub use memory::MemoryBudget;
pub use options::ServerOptions;
pub use server::{listen, serve};
pub(crate) use view::{DataView, show};

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::broker::{ConsumerDirectory, EventLog, Lane, PluginStateRemover};
use crate::event::EventType;
use crate::telemetry::UnwrittenLines;

use problem::{Problem, ProblemKind};

/// What the API knows of plugins.
#[async_trait::async_trait]
pub trait PluginControl: Send + Sync + 'static {
    /// The lane in which events of a type wait: that of the plugin that handles it now, else [`Lane::unrouted`].
    fn lane(&self, event_type: &EventType) -> Lane;

    /// Why plugins keep this host from being ready, if they do.
    fn trouble(&self) -> Option<String>;

    /// What is to be told of each plugin, an object with a `name`, in the order of the names.
    fn statuses(&self) -> Vec<serde_json::Value>;

    /// What is for no plugin among the files and settings of plugins, in words.
    fn overlooked(&self) -> Vec<String>;

    /// Brings the version of a plugin back that served before; gives its status from then on.
    async fn rollback(&self, name: &str) -> Result<serde_json::Value, PluginChangeError>;

    /// Has the build of a plugin serve that is held and has this digest; gives its status from then on.
    async fn approve(&self, name: &str, digest: Option<&str>) -> Result<serde_json::Value, PluginChangeError>;

    /// Removes a plugin; gives its status, the file that is gone and the settings that stay.
    async fn remove(&self, name: &str) -> Result<serde_json::Value, PluginChangeError>;
}

/// Why what serves for a name was not changed, in words for people. What served still serves.
#[derive(Clone, Debug)]
pub enum PluginChangeError {
    /// There is no such plugin.
    Unknown(String),
    /// It was not said which version is meant.
    Unnamed(String),
    /// As things stand it cannot be done.
    Refused(String),
}

/// What the handlers work with.
#[derive(Clone)]
pub struct ApiState {
    /// The event log.
    pub event_log: Arc<dyn EventLog>,
    /// This consumer and its peers.
    pub consumers: Arc<dyn ConsumerDirectory>,
    /// Where the state of a removed plugin is deleted.
    pub plugin_state: Arc<dyn PluginStateRemover>,
    /// The plugins.
    pub routes: Arc<dyn PluginControl>,
    /// What requests are limited by.
    pub options: ServerOptions,
    /// The memory of bodies, heads and answers under way.
    pub memory: MemoryBudget,
    /// Cancelled when the host is told to stop: it is not ready from then on.
    pub draining: CancellationToken,
    /// What this host does not write to its log.
    pub unwritten: UnwrittenLines,
}

/// Where requests come in. Every answer, the refusals of the router among them, is one of ours.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<GatewayState>,
    /// Whether the other end of the connection is on this machine.
    is_local_peer: bool,
}

struct GatewayState {
    options: ServerOptions,
    memory: MemoryBudget,
    /// Answers until the broker is there.
    starting: Router,
    serving: OnceLock<ServingApi>,
}

struct ServingApi {
    api: Arc<ApiState>,
    router: Router,
}

impl Gateway {
    /// The entrance to the routes of the API.
    pub fn new(api: ApiState) -> Self {
        let entrance = Self::with_memory(api.options.clone(), api.memory.clone(), String::new());
        entrance.open(api);
        entrance
    }

    /// An entrance for the time until the broker is there: alive, not ready, and every other request is to be sent again.
    /// `reason` says what is waited for.
    pub fn starting(options: ServerOptions, reason: String) -> Self {
        let memory = MemoryBudget::new(options.max_buffered_bytes);
        Self::with_memory(options, memory, reason)
    }

    fn with_memory(options: ServerOptions, memory: MemoryBudget, reason: String) -> Self {
        let shared = GatewayState { options, memory, starting: starting::router(reason), serving: OnceLock::new() };
        Self { shared: Arc::new(shared), is_local_peer: false }
    }

    /// The entrance for the requests of one connection. Without this they are taken for those of another machine.
    #[must_use]
    pub fn for_peer(self, peer: SocketAddr) -> Self {
        Self { is_local_peer: peer.ip().to_canonical().is_loopback(), ..self }
    }

    /// Serves the routes of the API from now on. Only the first call has an effect.
    pub fn open(&self, api: ApiState) {
        let api = Arc::new(api);
        self.shared.serving.get_or_init(|| ServingApi { router: router(api.clone()), api });
    }

    /// The memory of bodies, heads and answers under way.
    pub fn memory(&self) -> &MemoryBudget {
        &self.shared.memory
    }

    /// Answers a request.
    pub async fn answer(self, request: Request) -> Response {
        let Self { shared, is_local_peer } = self;
        let GatewayState { options, memory, starting, serving } = &*shared;
        let serving = serving.get();
        let handle = async |request: Request| {
            let may_refuse = request.method().is_safe();
            // Taken by hand, since it is nearly all there is, and the router costs more than the handler.
            let answer = if let Some(ServingApi { api, .. }) = serving
                && *request.method() == Method::POST
                && request.uri().path() == "/events"
            {
                events::publish(State(api.clone()), request).await.into_response()
            } else {
                let router = serving.map_or(starting, |serving| &serving.router).clone();
                match intake::with_body(request, options, memory).await {
                    Ok(request) => router.oneshot(intake::without_trailing_slash(request)).await.into_response(),
                    Err(problem) => problem.into_response(),
                }
            };
            memory.charge_answer(answer, may_refuse)
        };
        guard::guard(request, options.only_local, is_local_peer, handle).await
    }
}

fn router(api: Arc<ApiState>) -> Router {
    Router::new()
        .route("/events", post(events::publish).get(events::list))
        .route("/events/{id}", get(events::show))
        .route("/failed-events", get(failed_events::list))
        .route("/failed-events/{id}", get(failed_events::show))
        .route("/failed-events/{id}/replay", post(failed_events::replay))
        .route("/metrics", get(metrics::show))
        .route("/plugins", get(plugins::list))
        .route("/plugins/{name}", get(plugins::show).delete(plugins::remove))
        .route("/plugins/{name}/approve", post(plugins::approve))
        .route("/plugins/{name}/rollback", post(plugins::rollback))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(api)
}

async fn no_such_path(uri: axum::http::Uri) -> Problem {
    let detail = format!("there is nothing at {:?}; events are sent to POST /events", uri.path());
    Problem::new(ProblemKind::NotFound, detail)
}

async fn no_such_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    Problem::new(
        ProblemKind::MethodNotAllowed,
        format!("{:?} does not know {method}; Allow names what it does", uri.path()),
    )
}

/// A value as a JSON answer.
fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        // Growing left room behind the text, which a long one would keep until the client has read it.
        Ok(body) if body.len() > memory::FREE_BYTES => json_text(status, body.into_boxed_slice().into_vec()),
        Ok(body) => json_text(status, body),
        Err(error) => {
            tracing::error!("an answer cannot be written as JSON: {error}");
            Problem::new(ProblemKind::Internal, "the answer cannot be written as JSON").into_response()
        }
    }
}

/// A JSON answer that is written already.
fn json_text(status: StatusCode, body: impl IntoResponse) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
