//! The linker with everything that a plugin may import.

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use super::bindings::Offered;
use super::guest::GuestState;
use super::{http, keyvalue, standards};
use crate::plugin::dialect;

/// A linker with everything that a plugin may import.
///
/// # Errors
/// Two interfaces have the same name, which does not happen.
pub(in crate::plugin) fn linker(engine: &Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    http::add_to_linker(&mut linker)?;
    Offered::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| guest)?;
    keyvalue::add_to_linker(&mut linker)?;
    standards::add_to_linker(&mut linker)?;
    dialect::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// One linker for each part of WASI, to find every part that a component does not fit.
///
/// # Errors
/// Two interfaces have the same name, which does not happen.
pub(in crate::plugin) fn linkers(engine: &Engine) -> wasmtime::Result<Vec<Linker<GuestState>>> {
    type AddImports = fn(&mut Linker<GuestState>) -> wasmtime::Result<()>;
    let parts: [AddImports; 4] = [
        wasmtime_wasi::p2::add_to_linker_async,
        keyvalue::add_to_linker,
        standards::add_to_linker,
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
