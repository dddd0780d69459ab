//! Handles `order.paid`: adds up what each customer pays, in the state of the plugin.
//!
//! The rules are in [`total`] and know nothing of components, so that `cargo test` runs them natively. `component` joins
//! them to the host.

#[cfg(target_family = "wasm")]
mod component;
pub mod total;
