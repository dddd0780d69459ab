//! The HTTP server: accepts connections, reads requests from them within limits, and ends them in order.
//!
//! The framework limits neither connections nor heads nor idle time. So this server runs its own accept loop and watches the
//! bytes of each connection.

mod accept;
mod admission;
mod connection;
mod framing;
mod head_refusal;
mod phase;
mod timed_stream;
mod write_pace;

pub use accept::{listen, serve};
