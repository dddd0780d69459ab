//! What the server is told: where it listens and how much of anything it puts up with.
//!
//! Every limit is here or a constant beside the code that keeps it; a connection, a request and a body each have one.

use std::net::{Ipv4Addr, SocketAddr};

use crate::event::EventLimits;

/// What the server must be told (contract section 8).
#[derive(Clone, Debug, PartialEq)]
pub struct ServerOptions {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The largest body of a request.
    pub max_body_bytes: usize,
    /// The memory for all bodies, heads and answers under way together, beside a few KiB for each of them.
    pub max_buffered_bytes: usize,
    /// The most connections at a time. Past it the one that has waited the longest for a request is closed; where none
    /// waits, newcomers are answered 503, but for probes of health.
    pub max_connections: usize,
    /// The time in which a request's head must arrive, from its first byte on; the first one of a connection must begin
    /// within this time, too.
    pub header_timeout_ms: u64,
    /// The time in which a request's body must arrive.
    pub body_timeout_ms: u64,
    /// How long a connection may be open between two requests.
    pub idle_timeout_ms: u64,
    /// How long requests and handlers under way may take to end when the program stops.
    pub drain_ms: u64,
    /// Whether only this machine is served, under its own name: a request for another host is refused.
    pub only_local: bool,
    /// What limits an event.
    pub limits: EventLimits,
}

impl Default for ServerOptions {
    /// The defaults of contract section 8.
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
