//! `wasi:http/types` for components that answer requests. Nothing here connects to anything.

use wasmtime::component::Linker;
use wasmtime_wasi_http::p2::bindings::{LinkOptions, http};
use wasmtime_wasi_http::{
    Error, RequestOptions, Result, WasiBody, WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use super::Guest;

/// What answering requests needs beside the table of handles.
#[derive(Default)]
pub(super) struct Incoming {
    context: WasiHttpCtx,
    hooks: NoRequests,
}

/// Refuses every request that a guest wants to send.
#[derive(Default)]
struct NoRequests;

type Sent = Result<(hyper::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>)>;

impl WasiHttpHooks for NoRequests {
    fn send_request(
        &mut self,
        _request: hyper::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _ended: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Incoming { context, hooks } = &mut self.incoming;
        WasiHttpCtxView { ctx: context, table: &mut self.table, hooks }
    }
}

/// Adds the types, and no way to send a request.
///
/// # Errors
/// Never, unless two interfaces have one name.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    http::types::add_to_linker::<_, WasiHttp>(linker, &LinkOptions::default().into(), Guest::http)
}
