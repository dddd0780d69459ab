//! Serves one connection: reads its requests one after the other and answers each.

use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use axum::response::IntoResponse;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::admission::AdmittedConnection;
use super::phase::RequestInProgress;
use super::timed_stream::{ConnectionTimeouts, TimedStream};
use super::write_pace::WritePace;
use crate::api::api_state::ServerOptions;
use crate::api::gateway::Gateway;
use crate::api::guard;
use crate::api::problem::Problem;
use crate::api::request::buffer_body;
use crate::api::requester::{Requester, RequesterConnection};

/// The most bytes of a head that are read. This is more than a request may have, so that most larger ones still get a
/// problem document that states the limit.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How fast a client must read an answer.
const WRITE_PACE: WritePace = WritePace { grace_ms: 10_000, bytes_per_s: 32 * 1024 };
/// The time for a head on a spare connection, and for a body. It is short, since other connections wait for the place.
const SPARE_TIMEOUT_MS: u64 = 1_000;
/// How long the server reads on after it refused a request.
const LINGER_MS: u64 = 1_000;
/// The time in which a connection that gives way tells its client so.
const EVICTION_TIME: Duration = Duration::from_millis(200);

/// What a connection works with.
pub(super) struct ConnectionContext {
    pub(super) gateway: Gateway,
    pub(super) options: Arc<ServerOptions>,
    pub(super) connection: AdmittedConnection,
}

impl ConnectionContext {
    /// Serves the connection to its end. Once `close` is cancelled, it ends as soon as no request is in progress.
    pub(super) async fn serve(self, close: CancellationToken) {
        let AdmittedConnection { socket, phases, give_way, .. } = &self.connection;
        let (socket, phases, give_way) = (socket.clone(), phases.clone(), give_way.clone());
        let options = Arc::clone(&self.options);
        let max_header_ms = if self.connection.has_place() { u64::MAX } else { SPARE_TIMEOUT_MS };
        let timeouts = ConnectionTimeouts {
            header_timeout_ms: options.header_timeout_ms.min(max_header_ms),
            idle_timeout_ms: options.idle_timeout_ms,
            write_pace: WRITE_PACE,
            linger_ms: LINGER_MS,
        };
        let stream = TimedStream::new(socket, phases.clone(), timeouts);
        let context = Arc::new(self);
        let service = service_fn(move |mut request| {
            let in_progress = phases.begin_request(&mut request);
            Arc::clone(&context).answer_request(in_progress, request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .half_close(true)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_HEAD_BYTES)
            // Vectored writes send an answer from where it is. A copy would not be charged to the memory budget.
            .writev(true)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            // Polls the connection first, so that a request that has arrived is answered before the connection closes.
            biased;
            ended = &mut connection => ended,
            // The stream reports its end from now on. The library has to be polled to see it.
            () = give_way.cancelled() => match tokio::time::timeout(EVICTION_TIME, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            },
            () = close.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(Duration::from_millis(options.drain_ms), connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!("a connection ended early: {error}");
        }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The client is gone, and its request was dropped, since it changes nothing.
    async fn answer_request(
        self: Arc<Self>,
        in_progress: RequestInProgress,
        request: Request<Incoming>,
    ) -> io::Result<Response<TrackedBody>> {
        let mut request = request.map(Body::new);
        let mut response = if request.method().is_safe() {
            let requester = Requester::new(self.connection.client, Arc::clone(&self) as _);
            request.extensions_mut().insert(requester);
            tokio::select! {
                biased;
                response = self.answer(request) => response,
                () = self.request_dropped() => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client did not wait for its answer"));
                }
            }
        } else {
            self.answer(request).await
        };
        let phases = &self.connection.phases;
        phases.begin_answer();
        if !self.connection.has_place() || phases.is_last_request() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if response.headers().contains_key(CONNECTION) {
            phases.set_lingering();
        }
        Ok(response.map(|body| TrackedBody { body, _in_progress: in_progress }))
    }

    /// Answers a request. Without a place, it needs one, unless it is a health probe. It waits for one only when it has arrived
    /// whole: a client that stalls takes no place from others.
    async fn answer(&self, mut request: Request<Body>) -> Response<Body> {
        if !self.connection.has_place() {
            let is_probe = matches!(request.uri().path().trim_end_matches('/'), "/livez" | "/readyz");
            let body_timeout_ms = self.options.body_timeout_ms.min(SPARE_TIMEOUT_MS);
            let options = ServerOptions { body_timeout_ms, ..ServerOptions::clone(&self.options) };
            let refused = |problem: Problem| guard::add_common_headers(problem.into_response());
            request = match buffer_body(request, &options, self.gateway.memory()).await {
                Ok(request) => request,
                Err(problem) => return refused(problem),
            };
            if !is_probe && !self.connection.acquire_place().await {
                return refused(all_taken());
            }
        }
        self.gateway.clone().answer(request).await
    }

    /// Waits until the client is known to be gone, or its connection gives way, and the request in progress is dropped.
    async fn request_dropped(&self) {
        tokio::select! {
            () = self.connection.socket.broken() => {}
            () = self.connection.give_way.cancelled() => {}
        }
        if !self.connection.phases.try_drop_request() {
            pending::<()>().await;
        }
    }
}

impl RequesterConnection for ConnectionContext {
    fn may_be_gone(&self) -> bool {
        self.connection.socket.is_sending_closed()
    }

    fn carry_on(&self) {
        self.connection.phases.carry_on();
    }
}

/// The refusal while no connection gives way.
pub(super) fn all_taken() -> Problem {
    Problem::overloaded("all connections of the server are in use (server.max_connections): try again")
}

/// The body of an answer. Its request is in progress until the body is sent.
struct TrackedBody {
    body: Body,
    _in_progress: RequestInProgress,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
