//! The outgoing HTTP of one attempt: which requests may be sent, and what the host adds to them.

use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks,
};

use super::grants::GrantOrigin;
use super::send::HttpNetwork;
use crate::event::{EventId, SENT_BY_PLUGIN_HEADER};

/// The most memory for the headers of one request or response.
const MAX_FIELDS_BYTES: usize = 32 * 1_024;
/// The most bytes of a request body in one write.
const CHUNK_BYTES: usize = 64 * 1_024;

pub(super) type SendWorker = Box<dyn Future<Output = Result<(), Error>> + Send>;
type SendAnswer = Box<dyn Future<Output = Result<(Response<WasiBody>, SendWorker), Error>> + Send>;

/// The outgoing HTTP of one attempt.
pub struct OutgoingHttp {
    pub(super) context: WasiHttpCtx,
    pub(super) sender: RequestSender,
}

pub(super) struct RequestSender {
    network: Arc<HttpNetwork>,
    event: EventId,
    sent: u32,
}

impl OutgoingHttp {
    pub fn new(network: Arc<HttpNetwork>, event: EventId) -> Self {
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(MAX_FIELDS_BYTES);
        Self { context, sender: RequestSender { network, event, sent: 0 } }
    }
}

impl WasiHttpHooks for RequestSender {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name) || *name == hyper::header::TE)
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: SendWorker,
    ) -> SendAnswer {
        match self.permit(request) {
            Ok((request, origin)) => {
                let answer = self.network.send(request, origin, options.unwrap_or_default());
                Box::new(async move {
                    let response = answer.await?;
                    let worker: SendWorker = Box::new(async { Ok(()) });
                    Ok((response, worker))
                })
            }
            Err(error) => Box::new(async move { Err(error) }),
        }
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}

impl RequestSender {
    /// Checks whether a request may be sent, as far as possible before its name is resolved, and adds the host's headers.
    fn permit(&mut self, mut request: Request<WasiBody>) -> Result<(Request<WasiBody>, GrantOrigin), Error> {
        // A tunnel could carry requests for which there is no grant.
        if *request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let Some(origin) = GrantOrigin::of(request.uri()) else {
            self.network.denials.deny_unnamed(request.uri());
            return Err(Error::HttpRequestDenied);
        };
        let grant = match self.network.grants.find(&origin, request.method()) {
            Ok(grant) => grant,
            Err(lacking) => {
                self.network.denials.deny(&origin, request.method(), lacking);
                return Err(Error::HttpRequestDenied);
            }
        };
        let limit = self.network.limits.http_requests;
        if self.sent >= limit {
            let words = format!("an attempt may send {limit} requests; the operator can raise limits.http_requests");
            return Err(Error::InternalError(Some(words)));
        }
        self.sent += 1;
        // Servers of this deployment use it to give a plugin no rights that other clients lack.
        request.headers_mut().insert(HeaderName::from_static(SENT_BY_PLUGIN_HEADER), HeaderValue::from_static("1"));
        let name = HeaderName::from_static("idempotency-key");
        if grant.idempotency_key
            && !request.headers().contains_key(&name)
            && let Ok(value) = HeaderValue::from_str(&self.event.to_string())
        {
            request.headers_mut().insert(name, value);
        }
        Ok((request, origin))
    }
}
