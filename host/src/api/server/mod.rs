//! The HTTP server: accepts connections, reads requests from them within limits, and ends them in order.
//!
//! The framework limits neither connections nor heads nor idle time. So this server runs its own accept loop and watches the
//! bytes of each connection.

mod admission;
mod chunks;
mod connection;
mod framing;
mod head_refusal;
mod phase;
mod timed_stream;
mod write_pace;

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use super::api_state::ServerOptions;
use super::gateway::Gateway;
use crate::shutdown::TaskGroup;
use admission::AdmissionControl;
use connection::ConnectionContext;

/// The most connections that may wait to be accepted. Linux lowers it to `net.core.somaxconn`. Further clients get no answer,
/// and their systems try again after 1, 3 and 7 seconds.
const BACKLOG: u32 = 4_096;
/// The pauses after failed accepts. They grow by doubling.
const ACCEPT_PAUSES_MS: RangeInclusive<u64> = 10..=1_000;

/// Listens on an address.
///
/// # Errors
/// Those of the system: the address is in use, does not belong to this machine, or needs a privilege.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Allows a restart while connections of the earlier process are still in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves connections, in tasks of `tasks`, until `stop` is cancelled. Then it accepts no more, gives requests in progress
/// `drain_ms` to end, and returns.
///
/// # Cancel safety
/// If the future is dropped, no more connections are accepted. Open ones go on until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    options: ServerOptions,
    stop: CancellationToken,
    tasks: &TaskGroup,
) {
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
            Ok((stream, peer, permit)) => {
                pause_ms = *ACCEPT_PAUSES_MS.start();
                let context = ConnectionContext {
                    gateway: gateway.clone().for_client(peer),
                    options: Arc::clone(&options),
                    admission: Arc::clone(&admission),
                    client: peer.ip(),
                    is_spare: permit.is_spare,
                };
                let connection = context.serve_connection(stream, stop.child_token());
                tasks.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(pause_ms, "a connection cannot be accepted: {error}");
                // If file descriptors ran out, this frees one.
                let _ = admission.make_room(true, false);
                let pause = tokio::time::sleep(Duration::from_millis(pause_ms));
                tokio::select! { () = stop.cancelled() => break, () = pause => {} }
                pause_ms = (pause_ms * 2).min(*ACCEPT_PAUSES_MS.end());
            }
        }
    }
    drop(listener);
    let closed = tokio::time::timeout(Duration::from_millis(options.drain_ms), admission.wait_until_all_closed()).await;
    if closed.is_err() {
        let connections = admission.open_connections();
        tracing::warn!(connections, "requests in progress did not end within the drain time and are dropped");
    }
}

/// Whether an accept failed because of the connection itself, so that the next accept may succeed at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
