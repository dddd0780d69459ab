//! The HTTP interface: clients publish events, operators look at them and manage plugins.
//!
//! [`server`] accepts connections and reads requests. [`Gateway`] checks each request and routes it to its handler; each
//! resource has a file of handlers. Every refusal is a [`problem`] document. The broker and the plugins are known here only
//! by their traits.

mod access;
mod api_state;
mod audit;
mod auth_failures;
mod author;
mod caller;
mod change_note;
mod event_changes;
mod event_view;
mod events;
mod failed_events;
mod failed_tries;
mod gateway;
mod guard;
mod health;
mod key_ring;
mod key_view;
mod keys;
mod memory_budget;
mod metrics;
mod metrics_format;
mod page_turns;
mod pauses;
mod plugins;
mod problem;
mod problem_kind;
mod query;
mod rate_gauge;
mod request;
mod requester;
mod response;
mod routes;
mod server;

#[cfg(test)]
mod tests;

pub use api_state::{ApiState, PluginAdmin, PluginChangeError, RemovedPlugin, ServerOptions};
pub use gateway::Gateway;
pub use key_ring::KeyRing;
pub use memory_budget::MemoryBudget;
pub use server::{listen, serve};
