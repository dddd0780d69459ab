//! The product from outside: the real binary, a real Redis, real components, seen through HTTP and the command line.
//!
//! One module per promise. Each test has a Redis, a directory of plugins and a host of its own, so that they run side by
//! side and in any order. Nothing is timed except where a time is the promise.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what goes wrong in a test is for the person who reads it")]

mod command_line;
mod containment;
mod events;
mod idempotency;
mod input;
mod isolation;
mod operating;
mod reload;
mod restarts;
mod schedule;
mod store_away;
mod transfer;
mod wire;
