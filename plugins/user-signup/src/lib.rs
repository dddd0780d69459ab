//! Handles `USER_SIGNUP`: checks and normalizes the new user, and publishes `user.welcome` for the next step.
//!
//! The rules are in [`signup`] and know nothing of components, so that `cargo test` runs them natively.
//! `component` joins them to the host.

#[cfg(target_family = "wasm")]
mod component;
pub mod signup;
