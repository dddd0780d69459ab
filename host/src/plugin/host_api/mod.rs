//! What the host offers to a guest. WASI 0.2 gives access to nothing, and HTTP only to what the operator granted.
//!
//! [`InstanceHost`] is the host's side of an instance, and `interfaces` has the functions of `wit/`. Host functions trust
//! nothing that a guest passes: a wrong argument gets an error as its answer, and too much data ends the attempt. Only reads
//! of state wait.

pub(super) mod bindings;
pub(super) mod guest;
mod http;
mod interfaces;
mod output;
pub(super) mod publish_buffer;
mod standards;
pub(super) mod state;

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use self::bindings::Offered;
use super::dialect;

pub use http::{HttpGrant, HttpGrants};

pub(super) use guest::{CurrentAttempt, HostContext, InstanceHost};
pub(super) use http::{HttpNetwork, SharedNetwork};
pub(super) use output::GuestOutput;

/// A linker with everything that a plugin may import.
///
/// # Errors
/// Two interfaces have the same name, which does not happen.
pub(super) fn build_linker(engine: &Engine) -> wasmtime::Result<Linker<InstanceHost>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    http::add_to_linker(&mut linker)?;
    Offered::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| guest)?;
    standards::add_keyvalue(&mut linker)?;
    standards::add_config_and_logging(&mut linker)?;
    dialect::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// One linker for each part of WASI, to find every part that a component does not fit.
///
/// # Errors
/// Two interfaces have the same name, which does not happen.
pub(super) fn build_part_linkers(engine: &Engine) -> wasmtime::Result<Vec<Linker<InstanceHost>>> {
    type AddImports = fn(&mut Linker<InstanceHost>) -> wasmtime::Result<()>;
    let parts: [AddImports; 4] = [
        wasmtime_wasi::p2::add_to_linker_async,
        standards::add_keyvalue,
        standards::add_config_and_logging,
        // HTTP uses the streams of the first part.
        |linker| {
            wasmtime_wasi::p2::add_to_linker_async(linker)?;
            http::add_to_linker(linker)
        },
    ];
    parts
        .into_iter()
        .map(|add| {
            let mut linker = Linker::new(engine);
            add(&mut linker)?;
            Ok(linker)
        })
        .collect()
}
