//! Tests of the API through its router, and of the server on sockets.

mod audit;
pub(super) mod client;
mod crowded;
mod event_changes;
mod events;
pub(super) mod fake;
mod fake_keys;
mod hostile;
mod key_refusals;
mod keys;
mod operations;
mod plugins;
mod requests;
mod server;
