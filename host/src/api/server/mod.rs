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
mod socket;
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
use phase::Shortage;
use socket::ClientSocket;

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
        // Nothing in this loop waits for a client: whoever is behind, such as a health probe, would wait with it.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause_ms = *ACCEPT_PAUSES_MS.start();
                let socket = ClientSocket::new(stream);
                let admitted = admission.admit(&socket, peer.ip(), gateway.memory()).await;
                let Some(connection) = admitted else {
                    socket.write_last(&head_refusal::answer_bytes(&connection::all_taken()));
                    continue;
                };
                let gateway = gateway.clone().for_client(peer);
                let context = ConnectionContext { gateway, options: Arc::clone(&options), connection };
                tasks.spawn(context.serve(stop.child_token()));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(pause_ms, "a connection cannot be accepted: {error}");
                // If file descriptors ran out, this frees one.
                let _ = admission.make_room(Shortage::LastingPlace, 1);
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
