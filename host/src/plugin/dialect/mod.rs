//! The interfaces by which a component may take events: ours, and those of other hosts, whose components run unmodified.
//!
//! Each dialect has a file: its bindings, how an event is passed, what its answers mean, and what its components import.
//! The files in `wit/` beside it describe the binary interfaces of those hosts. Foreign imports use the same publisher,
//! settings and limits as ours.

#[cfg(test)]
pub(super) mod dialect_tests;
mod event_form;
mod eventstream;
mod foreign_publish;
mod handler_export;
mod interface;
mod spin;
mod wasi_http;
mod wasi_messaging;
mod wasmcloud;

use wasmtime::component::{HasSelf, Linker};

use self::spin::Spin;
use self::wasi_messaging::Messaging;
use self::wasmcloud::Wasmcloud;
use super::host_api::GuestState;

pub(super) use self::handler_export::HandlerExport;
pub use self::interface::Dialect;
pub(super) use self::interface::{IMPORTS, versioned};

/// Adds what components of other hosts import.
///
/// # Errors
/// Two interfaces have the same name, which does not happen.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    Messaging::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    Wasmcloud::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    Spin::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}
