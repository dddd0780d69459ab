//! `wasi:http/outgoing-handler`: linked for every plugin; requests without a grant are denied.
//!
//! A grant names scheme, host, port and methods. The addresses of a name are checked as well, and redirects are left to the
//! guest. Requests are sent from a runtime of their own, because the guests' runtimes have no sockets. Dropping an attempt
//! cancels its requests.
//!
//! The implementation of the engine only limits the fields of one object, but an attempt can make many objects. So the
//! functions that store data in an object are replaced by ones that count the data as passed to the host.

mod connect;
mod denials;
mod grants;
mod outgoing;
mod quota;
mod resolve;
mod send;
#[cfg(test)]
mod tests;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::HeaderResult;
use wasmtime_wasi_http::p2::bindings::http::types::{
    Fields, HeaderError, HostFields, HostOutgoingRequest, Method, OutgoingRequest, Scheme,
};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::guest::InstanceHost;

pub use grants::{HttpGrant, HttpGrants};

pub(super) use outgoing::OutgoingHttp;
pub use send::{HttpNetwork, SharedNetwork};

/// The name under which the implementation links the interface. A test notices a change.
const TYPES: &str = "wasi:http/types@0.2.12";
/// The longest method or scheme. Registered ones have at most 22 letters.
const MAX_WORD_BYTES: usize = 64;
/// The longest authority and the longest path with query, like the limit of most servers.
const MAX_TARGET_BYTES: usize = 8 * 1_024;

type Store<'a> = StoreContextMut<'a, InstanceHost>;
type Request = Resource<OutgoingRequest>;
type Pair = (String, Vec<u8>);

/// Adds what a guest needs to send requests.
///
/// # Errors
/// Two interfaces have the same name, which does not happen.
pub(super) fn add_to_linker(linker: &mut Linker<InstanceHost>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    replace_storing_functions(linker)
}

impl WasiHttpView for InstanceHost {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let OutgoingHttp { context, sender } = &mut self.current.outgoing;
        WasiHttpCtxView { hooks: sender, table: &mut self.table, ctx: context }
    }
}

/// Replaces the functions that store data in objects.
fn replace_storing_functions(linker: &mut Linker<InstanceHost>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: Store<'_>, (request, method): (Request, _)| {
            let size_bytes = if let Method::Other(word) = &method { word.len() } else { 0 };
            set(store.data_mut(), size_bytes, MAX_WORD_BYTES, |mut http| http.set_method(request, method))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-scheme",
        |mut store: Store<'_>, (request, scheme): (Request, _)| {
            let size_bytes = if let Some(Scheme::Other(word)) = &scheme { word.len() } else { 0 };
            set(store.data_mut(), size_bytes, MAX_WORD_BYTES, |mut http| http.set_scheme(request, scheme))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: Store<'_>, (request, authority): (Request, Option<String>)| {
            let size_bytes = authority.as_ref().map_or(0, String::len);
            set(store.data_mut(), size_bytes, MAX_TARGET_BYTES, |mut http| http.set_authority(request, authority))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store: Store<'_>, (request, path): (Request, Option<String>)| {
            let size_bytes = path.as_ref().map_or(0, String::len);
            set(store.data_mut(), size_bytes, MAX_TARGET_BYTES, |mut http| http.set_path_with_query(request, path))
        },
    )?;
    types.func_wrap("[static]fields.from-list", |mut store: Store<'_>, (pairs,): (Vec<Pair>,)| {
        let guest = store.data_mut();
        let pair = |(name, value): &Pair| size_of::<Pair>() + name.len() + value.len();
        guest.output.charge(pairs.iter().map(pair).sum())?;
        Ok((answer(HostFields::from_list(&mut guest.http(), pairs))?,))
    })?;
    types.func_wrap(
        "[method]fields.append",
        |mut store: Store<'_>, (fields, name, value): (Resource<Fields>, String, Vec<u8>)| {
            let guest = store.data_mut();
            guest.output.charge(size_of::<Pair>() + name.len() + value.len())?;
            Ok((answer(HostFields::append(&mut guest.http(), fields, name, value))?,))
        },
    )?;
    types.func_wrap(
        "[method]fields.set",
        |mut store: Store<'_>, (fields, name, values): (Resource<Fields>, String, Vec<Vec<u8>>)| {
            let guest = store.data_mut();
            let value = |value: &Vec<u8>| size_of::<Vec<u8>>() + value.len();
            guest.output.charge(name.len() + values.iter().map(value).sum::<usize>())?;
            Ok((answer(HostFields::set(&mut guest.http(), fields, name, values))?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Counts a text of a request and sets it, unless it is longer than `max_bytes`.
///
/// # Errors
/// The limit of host-call data is exceeded.
fn set(
    guest: &mut InstanceHost,
    size_bytes: usize,
    max_bytes: usize,
    set: impl FnOnce(WasiHttpCtxView<'_>) -> wasmtime::Result<Result<(), ()>>,
) -> wasmtime::Result<(Result<(), ()>,)> {
    if size_bytes > max_bytes {
        return Ok((Err(()),));
    }
    guest.output.charge(size_bytes)?;
    Ok((set(guest.http())?,))
}

/// Returns errors of the guest as its answer. Any other error ends the call.
fn answer<T>(answer: HeaderResult<T>) -> wasmtime::Result<Result<T, HeaderError>> {
    answer.map(Ok).or_else(|error| Ok(Err(error.downcast()?)))
}
