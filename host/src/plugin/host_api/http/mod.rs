//! `wasi:http/outgoing-handler`: linked for every plugin; requests without a grant are denied.
//!
//! A grant names scheme, host, port and methods. The addresses of a name are checked as well, and redirects are left to the
//! guest. Requests are sent from a runtime of their own, because the guests' runtimes have no sockets. Dropping an attempt
//! cancels its requests.

mod address;
mod body;
mod connect;
mod grants;
mod imports;
mod outgoing;
mod quota;
mod resolve;
mod send;
#[cfg(test)]
mod tests;

pub use grants::{HttpGrant, HttpGrants};

pub(super) use imports::add_to_linker;
pub(super) use outgoing::OutgoingHttp;
pub(in crate::plugin) use send::{HttpNetwork, SharedNetwork};
