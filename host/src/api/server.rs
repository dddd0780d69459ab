//! The server: accepts connections, serves each one, and ends them in an orderly way.
//!
//! An accept that fails is no reason to stop serving, and neither is a connection that does. A loop of our own and not
//! that of the framework, which has no limits on connections, heads or idle time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
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
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::shutdown::TaskGroup;

use super::admission::AdmissionControl;
use super::connection::{ConnectionTimeouts, PhaseTracker, RequestInProgress, TimedStream, WritePace};
use super::options::ServerOptions;
use super::problem::Problem;
use super::{Gateway, guard};

/// The most bytes of a head that are read at all. Past the limit on headers, so that most of those who break it can be
/// answered with a document that says by how much.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long a client may take for an answer.
const WRITE_PACE: WritePace = WritePace { grace_ms: 10_000, bytes_per_s: 32 * 1024 };
/// The time for a head on a connection that is beyond the limit, for which others wait.
const SPARE_TIMEOUT_MS: u64 = 1_000;
/// How long what a client still sends is read after it was refused.
const LINGER_MS: u64 = 1_000;
/// How many connections may wait to be accepted; Linux takes less where `net.core.somaxconn` says so. Whoever connects
/// when as many wait is not answered and tries again after a second, then three, then seven.
const BACKLOG: u32 = 4_096;
/// The pauses after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSES_MS: std::ops::RangeInclusive<u64> = 10..=1_000;

/// Listens on an address, so that clients that connect all at once are accepted one after the other.
///
/// # Errors
/// Those of the system: the address is taken, is none of this machine's, or needs a privilege.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Else a restart would have to wait until the connections of the host before are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` is cancelled: then accepts no more, lets requests under way end within `drain_ms`, and returns.
///
/// The connections run in `tasks`.
///
/// # Errors
/// None yet; the type leaves room for a listener that breaks for good.
///
/// # Cancel safety
/// Dropping the future stops accepting; connections go on until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    entrance: Gateway,
    options: ServerOptions,
    stop: CancellationToken,
    tasks: &TaskGroup,
) -> anyhow::Result<()> {
    let admission = Arc::new(AdmissionControl::new(options.max_connections));
    let options = Arc::new(options);
    let mut pause_ms = *ACCEPT_PAUSES_MS.start();
    loop {
        let next = async {
            let (stream, peer) = listener.accept().await?;
            io::Result::Ok((stream, peer, admission.admit().await))
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                pause_ms = *ACCEPT_PAUSES_MS.start();
                let server = ConnectionContext {
                    entrance: entrance.clone().for_peer(peer),
                    options: Arc::clone(&options),
                    admission: Arc::clone(&admission),
                    is_spare: place.is_spare,
                };
                let connection = server.connection(stream, stop.child_token());
                tasks.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(pause_ms, "a connection cannot be accepted: {error}");
                // It may be descriptors that are wanting.
                admission.close_quietest();
                let pause = tokio::time::sleep(Duration::from_millis(pause_ms));
                tokio::select! { () = stop.cancelled() => break, () = pause => {} }
                pause_ms = (pause_ms * 2).min(*ACCEPT_PAUSES_MS.end());
            }
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(Duration::from_millis(options.drain_ms), admission.all_ended());
    if ended.await.is_err() {
        let connections = admission.open_connections();
        tracing::warn!(connections, "requests under way did not end within the drain time and are dropped");
    }
    Ok(())
}

/// What a connection works with.
struct ConnectionContext {
    entrance: Gateway,
    options: Arc<ServerOptions>,
    admission: Arc<AdmissionControl>,
    /// Whether the connection has a spare place only.
    is_spare: bool,
}

impl ConnectionContext {
    /// Serves one connection to its end. `close` is cancelled when it is to end as soon as no request is under way.
    async fn connection(self, stream: TcpStream, close: CancellationToken) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("a connection was gone before it was served: {error}");
            return;
        }
        let options = Arc::clone(&self.options);
        let header_timeout_ms = options.header_timeout_ms.min(if self.is_spare { SPARE_TIMEOUT_MS } else { u64::MAX });
        let times = ConnectionTimeouts {
            header_timeout_ms,
            idle_timeout_ms: options.idle_timeout_ms,
            write_pace: WRITE_PACE,
            linger_ms: LINGER_MS,
        };
        let phases = PhaseTracker::new(self.entrance.memory());
        // A spare place would be no room for anybody.
        let _listed = (!self.is_spare).then(|| self.admission.list(phases.clone(), close.clone()));
        let stream = TimedStream::new(stream, phases.clone(), times);
        let server = Arc::new(self);
        let service = service_fn(move |mut request| {
            let under = phases.begin(&mut request);
            Arc::clone(&server).answer(phases.clone(), under, request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .half_close(true)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_HEAD_BYTES)
            // Answers are written from where they are: a copy would not count against the budget.
            .writev(true)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            // First: a request that has come is answered before the connection gives way.
            biased;
            ended = &mut connection => ended,
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

    async fn answer(
        self: Arc<Self>,
        phases: PhaseTracker,
        under: RequestInProgress,
        request: Request<Incoming>,
    ) -> Result<Response<TrackedBody>, Infallible> {
        let request = request.map(Body::new);
        let mut response = match self.place_for(request.uri().path()).await {
            Ok(_place) => self.entrance.clone().answer(request).await,
            Err(problem) => guard::finish(problem.into_response()),
        };
        if self.is_spare || phases.is_last() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if response.headers().contains_key(CONNECTION) {
            phases.linger();
        }
        Ok(response.map(|body| TrackedBody { body, _under: under }))
    }

    /// The regular place that a request for this path needs if its connection has none.
    async fn place_for(&self, path: &str) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        if !self.is_spare || matches!(path.trim_end_matches('/'), "/livez" | "/readyz") {
            return Ok(None);
        }
        let refusal = || {
            Problem::overloaded("all connections that the server has are in use (server.max_connections): try again")
        };
        self.admission.make_room().await.map(Some).ok_or_else(refusal)
    }
}

/// The body of an answer; until it is sent, its request counts as being answered.
struct TrackedBody {
    body: Body,
    _under: RequestInProgress,
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

/// Whether an accept failed because of the connection that was to be accepted, and not for want of anything.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
