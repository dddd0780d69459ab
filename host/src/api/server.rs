//! The server: accepts connections, bounds them, and ends them in an orderly way.
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
use axum::http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::shutdown::Tasks;

use super::Entrance;
use super::connection::{Phases, Times, Under, Watched};
use super::options::ServerOptions;

/// The most bytes of a head that are read at all. Past the limit on headers, so that most of those who break it can be
/// answered with a document that says by how much.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most bytes that are buffered for a connection.
const MAX_BUFFER_BYTES: usize = 128 * 1024;
/// How long an answer may lie without the client taking a byte of it.
const WRITE_TIMEOUT_MS: u64 = 10_000;
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
    entrance: Entrance,
    options: ServerOptions,
    stop: CancellationToken,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(options.max_connections));
    let options = Arc::new(options);
    let mut pause_ms = *ACCEPT_PAUSES_MS.start();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            anyhow::Ok((slot, listener.accept().await))
        };
        let (slot, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next?,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause_ms = *ACCEPT_PAUSES_MS.start();
                let connection =
                    connection(stream, entrance.clone().for_peer(peer), Arc::clone(&options), stop.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(pause_ms, "a connection cannot be accepted: {error}");
                let pause = tokio::time::sleep(Duration::from_millis(pause_ms));
                tokio::select! { () = stop.cancelled() => break, () = pause => {} }
                pause_ms = (pause_ms * 2).min(*ACCEPT_PAUSES_MS.end());
            }
        }
    }
    drop(listener);
    let all = u32::try_from(options.max_connections).unwrap_or(u32::MAX);
    let ended = tokio::time::timeout(Duration::from_millis(options.drain_ms), slots.acquire_many(all));
    if ended.await.is_err() {
        let open = options.max_connections - slots.available_permits();
        tracing::warn!(connections = open, "requests under way did not end within the drain time and are dropped");
    }
    Ok(())
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, entrance: Entrance, options: Arc<ServerOptions>, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("a connection was gone before it was served: {error}");
        return;
    }
    let phases = Phases::default();
    let times = Times {
        header_timeout_ms: options.header_timeout_ms,
        idle_timeout_ms: options.idle_timeout_ms,
        write_timeout_ms: WRITE_TIMEOUT_MS,
        linger_ms: LINGER_MS,
    };
    let stream = Watched::new(stream, phases.clone(), times);
    let service = service_fn(move |mut request| {
        let under = phases.begin(&mut request);
        answer(entrance.clone(), phases.clone(), under, request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES)
        // One buffer a write, so that answers made up by the library can be recognised.
        .writev(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
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
    entrance: Entrance,
    phases: Phases,
    under: Under,
    request: Request<Incoming>,
) -> Result<Response<UntilSent>, Infallible> {
    let response = entrance.answer(request.map(Body::new)).await;
    if response.headers().contains_key(CONNECTION) {
        phases.linger();
    }
    Ok(response.map(|body| UntilSent { body, _under: under }))
}

/// The body of an answer; until it is sent, its request counts as being answered.
struct UntilSent {
    body: Body,
    _under: Under,
}

impl HttpBody for UntilSent {
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
