//! What the host offers to a guest, with one file for each interface of `wit/`. WASI 0.2 gives access to nothing, and HTTP
//! only to what the operator granted.
//!
//! [`GuestState`] is the host's side of an instance. Host functions trust nothing that a guest passes: a wrong argument
//! gets an error as its answer, and too much data ends the attempt. Only reads of state wait.

pub(super) mod bindings;
mod config;
mod delivery;
mod denials;
mod guest;
pub(super) mod handles;
mod http;
mod keyvalue;
pub(super) mod linker;
mod log;
mod output;
pub(super) mod publish_buffer;
mod publisher;
mod secrets;
mod standards;
mod state;
mod state_buffer;
pub(super) mod state_reader;
mod stdio;

pub use http::{HttpGrant, HttpGrants};

pub(super) use denials::DenialLog;
pub(super) use guest::{AttemptContext, GuestState, HostContext};
pub(super) use http::{HttpNetwork, SharedNetwork};
pub(super) use output::AttemptOutput;
