//! Tests of the API through its router, and of the server on sockets.

mod client;
mod crowded;
mod events;
pub(super) mod fake;
mod hostile;
mod operations;
mod plugins;
mod requests;
mod server;
