//! Handles `webhook`: sends each event to a webhook, signed, and lets the answer decide how the event ends.
//!
//! The rules are in [`message`] and know nothing of components, so that `cargo test` runs them natively. `outgoing` sends
//! one request, and `component` joins them to the host.

#[cfg(target_family = "wasm")]
mod component;
pub mod message;
#[cfg(target_family = "wasm")]
mod outgoing;
