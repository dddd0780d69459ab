//! Handles `payment.requested`: captures a payment from a provider that can also say no, or nothing at all.
//!
//! The rules are in [`capture`] and know nothing of components, so that `cargo test` runs them natively. `component`
//! joins them to the host.

pub mod capture;
#[cfg(target_family = "wasm")]
mod component;
