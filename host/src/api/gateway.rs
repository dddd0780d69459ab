//! The entry to the API: checks each request, routes it to its handler and charges the answer to the memory budget.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tower::ServiceExt;

use super::api_state::{ApiState, ServerOptions};
use super::auth_failures::AuthFailure;
use super::author::ChangeAuthor;
use super::caller::{Caller, RateTurn};
use super::memory_budget::MemoryBudget;
use super::routes::{self, Route};
use super::{access, events, guard, health, request};
use crate::api_key::ScopeSet;

/// Answers requests. Every answer, including the router's refusals, is made by this module.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<GatewayState>,
    /// The address of the client.
    client: IpAddr,
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
        Self { shared: Arc::new(shared), client: IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
    }

    /// The gateway for one connection. Without this call, requests count as those of another machine.
    #[must_use]
    pub fn for_client(self, client: SocketAddr) -> Self {
        Self { client: client.ip(), ..self }
    }

    /// Serves the API from now on. Only the first call has an effect.
    pub fn open(&self, api: ApiState) {
        let api = Arc::new(api);
        self.shared.serving.get_or_init(|| ServingApi { router: routes::router(api.clone()), api });
    }

    /// The memory of bodies, heads and answers in progress.
    pub fn memory(&self) -> &MemoryBudget {
        &self.shared.memory
    }

    /// Answers a request.
    pub async fn answer(self, request: Request) -> Response {
        let Self { shared, client } = self;
        let GatewayState { options, memory, startup_router, serving } = &*shared;
        let serving = serving.get();
        let request = request::without_trailing_slash(request);
        let route = Route::find(request.method(), request.uri().path());
        let admit = |request: &Request| match serving {
            Some(ServingApi { api, .. }) => access::admit(request, route, client, &api.keys, options),
            None => Ok(Caller::Anonymous(ScopeSet::NONE)),
        };
        let handle = async |request: Request, caller: Caller| {
            let may_refuse = request.method().is_safe();
            let turn = serving.and_then(|serving| caller.take_turn(&serving.api.keys));
            let mut answer = match serving {
                // Nearly every request publishes an event. It skips the router, which costs more than the handler.
                Some(ServingApi { api, .. }) if route.is_some_and(Route::is_publish) => {
                    let (caller, turn) = (Extension(caller), Extension(turn.clone()));
                    events::publish(State(api.clone()), caller, turn, request).await.into_response()
                }
                _ => match request::buffer_body(request, options, memory).await {
                    Ok(request) => match serving {
                        Some(serving) => serving.answer(request, route, caller, client, turn.as_ref()).await,
                        None => startup_router.clone().oneshot(request).await.into_response(),
                    },
                    Err(problem) => problem.into_response(),
                },
            };
            if let Some(serving) = serving.filter(|_| answer.status() == StatusCode::FORBIDDEN) {
                serving.api.keys.failures.note(AuthFailure::NotPermitted);
            }
            turn.iter().for_each(|turn| turn.add_headers(answer.headers_mut()));
            memory.charge_answer(answer, may_refuse)
        };
        let needs_key = serving.is_some_and(|serving| serving.api.keys.are_needed());
        let only_local = !options.allow_anonymous && !needs_key;
        guard::answer_guarded(request, only_local, admit, handle).await
    }
}

impl ServingApi {
    /// Answers a request whose body has been read.
    async fn answer(
        &self,
        mut request: Request,
        route: Option<&Route>,
        caller: Caller,
        client: IpAddr,
        turn: Option<&RateTurn>,
    ) -> Response {
        if let Some(Err(problem)) = turn.map(RateTurn::check) {
            return problem.into_response();
        }
        if route.is_none() {
            return routes::refuse_unrouted(request.method(), request.uri());
        }
        request.extensions_mut().insert(ChangeAuthor::new(caller.clone(), client));
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(turn.cloned());
        self.router.clone().oneshot(request).await.into_response()
    }
}
