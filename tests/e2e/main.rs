//! End-to-end tests: the real binary, real stores and real components, used through HTTP and the command line.
//!
//! One module is one promise. Each test has its own store, plugins and host, so that tests run in parallel and in any
//! order. A test of every broker runs on each: `events::redis::…` and `events::embedded::…`. Times are asserted only
//! where a time is the promise.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what goes wrong in a test is for the person who reads it")]

mod address_space;
mod approval;
mod audit;
mod backlog;
mod command_line;
mod compiling;
mod containment;
mod crowded;
mod dev;
mod earlier_versions;
mod embedded_store;
mod events;
mod failed;
mod foreign;
mod full_disk;
mod full_memory;
mod idempotency;
mod input;
mod inspection;
mod isolation;
mod keys;
mod large_results;
mod log;
mod many_publishes;
mod operating;
mod outgoing_http;
mod outgoing_https;
mod page_views;
mod pauses;
mod plugin_cache;
mod plugin_directory;
mod plugin_files;
mod projects;
mod redis_away;
mod redis_refuses;
mod reload;
mod reload_storm;
mod removal;
mod restarts;
mod retry_bytes;
mod reuse;
mod rollback;
mod schedule;
mod secrets;
mod starting;
mod state;
mod transfer;
mod uneven_hosts;
mod unwritable;
mod waiting;
mod webhook;
mod wire;
