//! Handles `user.welcome`: composes the message that welcomes a new user.
//!
//! What is said is in [`message`] and knows nothing of components, so that `cargo test` runs it natively. `component`
//! joins it to the host.

#[cfg(target_family = "wasm")]
mod component;
pub mod message;
