//! The product from outside: the real binary, real stores, real components, seen through HTTP and the command line.
//!
//! One module per promise. Each test has a store, a directory of plugins and a host of its own, so that they run side by
//! side and in any order. What holds for every broker is run on each: `events::redis::…` and `events::embedded::…`.
//! Nothing is timed except where a time is the promise.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what goes wrong in a test is for the person who reads it")]

mod address_space;
mod approval;
mod backlog;
mod command_line;
mod compiling;
mod containment;
mod dev;
mod earlier_versions;
mod embedded_store;
mod events;
mod foreign;
mod idempotency;
mod input;
mod isolation;
mod log;
mod looking;
mod operating;
mod outgoing_http;
mod outgoing_https;
mod plugin_cache;
mod plugin_directory;
mod plugin_files;
mod projects;
mod redis_away;
mod reload;
mod reload_storm;
mod removal;
mod restarts;
mod reuse;
mod rollback;
mod schedule;
mod secrets;
mod starting;
mod state;
mod transfer;
mod uneven_hosts;
mod unwritable;
mod webhook;
mod wire;
