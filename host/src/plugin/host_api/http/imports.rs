//! Links `wasi:http`, and limits and counts the data that its objects keep.
//!
//! The implementation of the engine only limits the fields of one object, but an attempt can make many objects. So the
//! functions that store data in an object are replaced by ones that count the data as passed to the host.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::HeaderResult;
use wasmtime_wasi_http::p2::bindings::http::types::{
    Fields, HeaderError, HostFields, HostOutgoingRequest, Method, OutgoingRequest, Scheme,
};

use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::outgoing::OutgoingHttp;
use crate::plugin::host_api::guest::GuestState;

/// The name under which the implementation links the interface. A test notices a change.
const TYPES: &str = "wasi:http/types@0.2.12";
/// The longest method or scheme. Registered ones have at most 22 letters.
const MAX_WORD_BYTES: usize = 64;
/// The longest authority and the longest path with query, like the limit of most servers.
const MAX_TARGET_BYTES: usize = 8 * 1_024;

type Store<'a> = StoreContextMut<'a, GuestState>;
type Request = Resource<OutgoingRequest>;
type Pair = (String, Vec<u8>);

/// Adds what a guest needs to send requests.
///
/// # Errors
/// Two interfaces have the same name, which does not happen.
pub(in crate::plugin::host_api) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    replace_storing_functions(linker)
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let OutgoingHttp { context, sender } = &mut self.current.outgoing;
        WasiHttpCtxView { hooks: sender, table: &mut self.table, ctx: context }
    }
}

/// Replaces the functions that store data in objects.
fn replace_storing_functions(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: Store<'_>, (request, method): (Request, _)| {
            let guest = store.data_mut();
            let word = if let Method::Other(word) = &method { word.as_str() } else { "" };
            let fits = guest.count_if_fits(word.len(), MAX_WORD_BYTES)?;
            Ok((if fits { guest.http().set_method(request, method)? } else { Err(()) },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-scheme",
        |mut store: Store<'_>, (request, scheme): (Request, _)| {
            let guest = store.data_mut();
            let word = if let Some(Scheme::Other(word)) = &scheme { word.as_str() } else { "" };
            let fits = guest.count_if_fits(word.len(), MAX_WORD_BYTES)?;
            Ok((if fits { guest.http().set_scheme(request, scheme)? } else { Err(()) },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: Store<'_>, (request, authority): (Request, Option<String>)| {
            let guest = store.data_mut();
            let fits = guest.count_if_fits(authority.as_ref().map_or(0, String::len), MAX_TARGET_BYTES)?;
            Ok((if fits { guest.http().set_authority(request, authority)? } else { Err(()) },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store: Store<'_>, (request, path): (Request, Option<String>)| {
            let guest = store.data_mut();
            let fits = guest.count_if_fits(path.as_ref().map_or(0, String::len), MAX_TARGET_BYTES)?;
            Ok((if fits { guest.http().set_path_with_query(request, path)? } else { Err(()) },))
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

impl GuestState {
    /// Counts a text and returns true, unless it is longer than `max_bytes`.
    ///
    /// # Errors
    /// The limit of host-call data is exceeded.
    fn count_if_fits(&self, size_bytes: usize, max_bytes: usize) -> wasmtime::Result<bool> {
        if size_bytes > max_bytes {
            return Ok(false);
        }
        self.output.charge(size_bytes)?;
        Ok(true)
    }
}

/// Returns errors of the guest as its answer. Any other error ends the call.
fn answer<T>(answer: HeaderResult<T>) -> wasmtime::Result<Result<T, HeaderError>> {
    match answer {
        Ok(done) => Ok(Ok(done)),
        Err(error) => Ok(Err(error.downcast()?)),
    }
}
