//! The entry to the API: checks each request, routes it to its handler and charges the answer to the memory budget.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower::ServiceExt;

use super::api_state::{ApiState, ServerOptions};
use super::memory_budget::MemoryBudget;
use super::problem::{Problem, ProblemKind};
use super::{events, failed_events, guard, health, metrics, plugins, request};

/// Answers requests. Every answer, including the router's refusals, is made by this module.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<GatewayState>,
    /// Whether the client is on this machine.
    is_local_client: bool,
}

struct GatewayState {
    options: ServerOptions,
    memory: MemoryBudget,
    /// Answers until the broker is open.
    startup_router: Router,
    serving: OnceLock<ServingApi>,
}

struct ServingApi {
    api: Arc<ApiState>,
    router: Router,
}

impl Gateway {
    /// A gateway that serves the API at once.
    pub fn new(api: ApiState) -> Self {
        let gateway = Self::with_memory(api.options.clone(), api.memory.clone(), String::new());
        gateway.open(api);
        gateway
    }

    /// A gateway for the time until the broker is open. It is alive and not ready, and refuses every other request with 503.
    /// `reason` says what the server waits for.
    pub fn starting(options: ServerOptions, reason: String) -> Self {
        let memory = MemoryBudget::new(options.max_buffered_bytes);
        Self::with_memory(options, memory, reason)
    }

    fn with_memory(options: ServerOptions, memory: MemoryBudget, reason: String) -> Self {
        let startup_router = health::starting_router(reason);
        let shared = GatewayState { options, memory, startup_router, serving: OnceLock::new() };
        Self { shared: Arc::new(shared), is_local_client: false }
    }

    /// The gateway for one connection. Without this call, requests count as those of another machine.
    #[must_use]
    pub fn for_client(self, client: SocketAddr) -> Self {
        Self { is_local_client: client.ip().to_canonical().is_loopback(), ..self }
    }

    /// Serves the API from now on. Only the first call has an effect.
    pub fn open(&self, api: ApiState) {
        let api = Arc::new(api);
        self.shared.serving.get_or_init(|| ServingApi { router: router(api.clone()), api });
    }

    /// The memory of bodies, heads and answers in progress.
    pub fn memory(&self) -> &MemoryBudget {
        &self.shared.memory
    }

    /// Answers a request.
    pub async fn answer(self, request: Request) -> Response {
        let Self { shared, is_local_client } = self;
        let GatewayState { options, memory, startup_router, serving } = &*shared;
        let serving = serving.get();
        let handle = async |request: Request| {
            let may_refuse = request.method().is_safe();
            // Nearly every request publishes an event. It skips the router, which costs more than the handler.
            let answer = if let Some(ServingApi { api, .. }) = serving
                && *request.method() == Method::POST
                && request.uri().path() == "/events"
            {
                events::publish(State(api.clone()), request).await.into_response()
            } else {
                let router = serving.map_or(startup_router, |serving| &serving.router).clone();
                match request::buffer_body(request, options, memory).await {
                    Ok(request) => router.oneshot(request::without_trailing_slash(request)).await.into_response(),
                    Err(problem) => problem.into_response(),
                }
            };
            memory.charge_answer(answer, may_refuse)
        };
        guard::answer_guarded(request, options.only_local, is_local_client, handle).await
    }
}

fn router(api: Arc<ApiState>) -> Router {
    Router::new()
        .route("/events", post(events::publish).get(events::list))
        .route("/events/{id}", get(events::show))
        .route("/failed-events", get(failed_events::list))
        .route("/failed-events/{id}", get(failed_events::show).delete(failed_events::discard))
        .route("/failed-events/{id}/replay", post(failed_events::replay))
        .route("/metrics", get(metrics::show))
        .route("/plugins", get(plugins::list))
        .route("/plugins/{name}", get(plugins::show).delete(plugins::remove))
        .route("/plugins/{name}/approve", post(plugins::approve))
        .route("/plugins/{name}/rollback", post(plugins::rollback))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(refuse_path)
        .method_not_allowed_fallback(refuse_method)
        .with_state(api)
}

async fn refuse_path(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {:?}; events are sent to POST /events", uri.path());
    Problem::new(ProblemKind::NotFound, detail)
}

async fn refuse_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{:?} does not support {method}; the header Allow lists what it supports", uri.path());
    Problem::new(ProblemKind::MethodNotAllowed, detail)
}
