//! The settings of the HTTP server: where it listens, and its limits.
//!
//! Limits that are not settings are constants beside the code that enforces them.

use std::net::{Ipv4Addr, SocketAddr};

use crate::event::EventLimits;

/// The settings of the HTTP server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerOptions {
    /// The address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// The memory for all bodies, heads and answers in progress together, in bytes. A few KiB of each are not counted.
    pub max_buffered_bytes: usize,
    /// The most connections at a time. A new connection then replaces the one that has been idle the longest. If none is
    /// idle, its requests get 503, except health probes.
    pub max_connections: usize,
    /// The time in which the head of a request must arrive, from its first byte on. The first request of a connection must
    /// begin within this time, too.
    pub header_timeout_ms: u64,
    /// The time in which a request's body must arrive.
    pub body_timeout_ms: u64,
    /// The longest time between two requests on a connection.
    pub idle_timeout_ms: u64,
    /// The time that requests and attempts in progress have to end when the program stops.
    pub drain_ms: u64,
    /// Whether only this machine is served: requests that name another host than localhost are refused.
    pub only_local: bool,
    /// The limits of an event.
    pub limits: EventLimits,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3000)),
            max_body_bytes: 1024 * 1024,
            max_buffered_bytes: 128 * 1024 * 1024,
            max_connections: 10_000,
            header_timeout_ms: 5_000,
            body_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            drain_ms: 25_000,
            only_local: true,
            limits: EventLimits::default(),
        }
    }
}
