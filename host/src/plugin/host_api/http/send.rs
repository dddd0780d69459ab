//! Sends the requests of one version of a plugin over a pool of connections.
//!
//! The bodies of requests and responses are bounded in size, and response bodies in time.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::TokioTimer;
use tokio::runtime::Handle;
use tokio::time::Sleep;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::connect::{ConnectError, HttpConnector, TrustRoots};
use super::denials::DenialLog;
use super::grants::{GrantOrigin, HttpGrants};
use super::quota::{CONNECTIONS, ConnectionQuotas};
use super::resolve::{AddressLookup, AddressResolver, ResolveError, look_up};
use crate::plugin::AttemptLimits;
use crate::plugin::settings::secrets::PluginSecrets;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// How many idle connections to one origin are kept.
const MAX_IDLE: usize = 8;
/// How many idle connections are kept in all. The rest of a plugin's connections is for running requests.
const MAX_ALL_IDLE: usize = CONNECTIONS / 2;
/// The most bytes of a response head.
const MAX_HEAD_BYTES: usize = 64 * 1_024;

/// The outgoing HTTP of one version of a plugin.
pub struct HttpNetwork {
    pub(super) grants: Arc<HttpGrants>,
    pub(super) limits: AttemptLimits,
    pub denials: DenialLog,
    /// For origins that a grant names exactly.
    client: Client<HttpConnector, WasiBody>,
    /// For origins below a domain. It keeps no idle connections, because there may be any number of them.
    client_once: Client<HttpConnector, WasiBody>,
    runtime: Handle,
}

/// What the networks of all plugins share.
#[derive(Clone)]
pub struct SharedNetwork {
    /// The runtime that sends requests. It is not one of the guests' runtimes.
    pub runtime: Handle,
    pub roots: Arc<TrustRoots>,
    /// The addresses of names that the operator configured.
    pub resolve: Arc<BTreeMap<String, Vec<IpAddr>>>,
    /// Resolves other names.
    pub look_up: AddressLookup,
    pub quotas: Arc<ConnectionQuotas>,
    /// The addresses on which this server listens. No grant allows them.
    pub own: Arc<[SocketAddr]>,
}

impl SharedNetwork {
    /// A network whose requests `runtime` sends. Names that `resolve` does not have are looked up by the system.
    pub fn new(runtime: Handle, resolve: BTreeMap<String, Vec<IpAddr>>, own: Arc<[SocketAddr]>) -> Self {
        let look_up = Arc::new(look_up);
        Self { runtime, roots: Arc::default(), resolve: Arc::new(resolve), look_up, quotas: Arc::default(), own }
    }
}

/// Runs the tasks of connections on the runtime that sends requests.
#[derive(Clone)]
struct RuntimeSpawner(Handle);

impl<F> hyper::rt::Executor<F> for RuntimeSpawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        drop(self.0.spawn(task));
    }
}

impl HttpNetwork {
    /// A network without connections.
    pub fn new(
        plugin: &str,
        grants: HttpGrants,
        limits: AttemptLimits,
        secrets: Arc<PluginSecrets>,
        shared: &SharedNetwork,
    ) -> Self {
        let SharedNetwork { runtime, roots, resolve, look_up, quotas, own } = shared.clone();
        let (grants, quota) = (Arc::new(grants), quotas.of(plugin));
        let resolver = AddressResolver { configured: resolve, quota: quota.clone(), look_up };
        let connector = HttpConnector { grants: grants.clone(), resolver, roots, quota, own };
        let client = |max_idle: usize| {
            Client::builder(RuntimeSpawner(runtime.clone()))
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(max_idle)
                .pool_timer(TokioTimer::new())
                .http1_max_buf_size(MAX_HEAD_BYTES)
                .build(connector.clone())
        };
        let (client, client_once) = (client(MAX_IDLE.min(MAX_ALL_IDLE / grants.exact_count().max(1))), client(0));
        let denials = DenialLog::new(plugin, secrets, grants.clone());
        Self { grants, limits, denials, client, client_once, runtime }
    }

    /// Sends a request that a grant allows. The future may be awaited on any runtime. Dropping it cancels the request.
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<WasiBody>,
        origin: GrantOrigin,
        options: RequestOptions,
    ) -> impl Future<Output = Result<Response<WasiBody>, Error>> + Send + use<> {
        let began = Instant::now();
        let deadline = began + Duration::from_millis(self.limits.http_timeout_ms);
        let wanted =
            options.first_byte_timeout.map(|head| head.saturating_add(options.connect_timeout.unwrap_or(IDLE)));
        let head_deadline = wanted.and_then(|wanted| began.checked_add(wanted)).map_or(deadline, |at| at.min(deadline));
        let request = request.map(|body| outgoing_body(body, self.limits.http_request_bytes));
        let method = request.method().clone();
        let client = if self.grants.names(&origin) { &self.client } else { &self.client_once };
        let sending = client.request(request);
        let task = self.runtime.spawn(async move { tokio::time::timeout_at(head_deadline.into(), sending).await });
        let task = AbortOnDropHandle::new(task);
        let network = self.clone();
        async move {
            match task.await {
                Ok(Ok(Ok(response))) => Ok(response.map(|body| {
                    incoming_body(body, network.limits.http_response_bytes, deadline, options.between_bytes_timeout)
                })),
                Ok(Ok(Err(error))) => Err(network.guest_error(&error, &origin, &method)),
                Ok(Err(_)) => Err(Error::HttpResponseTimeout),
                Err(_) => Err(Error::InternalError(Some("the server is stopping".into()))),
            }
        }
    }

    /// The error that the guest gets. Logs what the operator must know.
    fn guest_error(&self, error: &legacy::Error, origin: &GrantOrigin, method: &Method) -> Error {
        let mut cause = error.source();
        while let Some(found) = cause {
            if let Some(no_connection) = found.downcast_ref::<ConnectError>() {
                return match no_connection {
                    ConnectError::Resolve(ResolveError::Unknown) => Error::DnsError { rcode: None, info_code: None },
                    ConnectError::Resolve(ResolveError::TooMany) => {
                        self.denials.log_used_up_share("lookups of names are under way");
                        Error::DnsError { rcode: Some("too many lookups are under way".into()), info_code: None }
                    }
                    ConnectError::TooMany => {
                        self.denials.log_used_up_share("connections are open");
                        Error::ConnectionLimitReached
                    }
                    ConnectError::Resolve(ResolveError::Prohibited(address)) => {
                        let reason = format!("{address} is not a public address");
                        self.denials.log_denial(
                            origin,
                            method,
                            &reason,
                            &format!("\"{}\"", origin.with_address(*address)),
                        );
                        Error::DestinationIpProhibited
                    }
                    ConnectError::Own => {
                        self.denials.log_own_listener(origin, method);
                        Error::DestinationIpProhibited
                    }
                    ConnectError::Dial(error) if error.kind() == io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                    ConnectError::Dial(_) => Error::ConnectionRefused,
                    ConnectError::Tls(_) => Error::TlsProtocolError,
                    ConnectError::Certificate(why) => {
                        self.denials.log_certificate(origin, why);
                        Error::TlsCertificateError
                    }
                };
            }
            if let Some(Error::HttpRequestBodySize(limit)) = found.downcast_ref() {
                return Error::HttpRequestBodySize(*limit);
            }
            cause = found.source();
        }
        match error.is_connect() {
            true => Error::ConnectionRefused,
            false => Error::ConnectionTerminated,
        }
    }
}

/// The body of a request. More than `limit_bytes` cancels the request.
fn outgoing_body(body: WasiBody, limit_bytes: u64) -> WasiBody {
    let too_large = move || Error::HttpRequestBodySize(Some(limit_bytes));
    BoundedBody { body: Box::pin(body), left_bytes: limit_bytes, too_large, timeout: None }.boxed_unsync()
}

/// The body of a response, with at most `limit_bytes`. It must end before `deadline` and pause at most for `pause`.
fn incoming_body(body: Incoming, limit_bytes: u64, deadline: Instant, pause: Option<Duration>) -> WasiBody {
    let too_large = move || Error::HttpResponseBodySize(Some(limit_bytes));
    let sleep = Box::pin(tokio::time::sleep_until(next_deadline(deadline, pause)));
    let timeout = BodyTimeout { deadline, pause, sleep };
    let body = Box::pin(body.map_err(|_| Error::HttpResponseIncomplete));
    BoundedBody { body, left_bytes: limit_bytes, too_large, timeout: Some(timeout) }.boxed_unsync()
}

fn next_deadline(deadline: Instant, pause: Option<Duration>) -> tokio::time::Instant {
    pause.and_then(|pause| Instant::now().checked_add(pause)).map_or(deadline, |pause| pause.min(deadline)).into()
}

struct BodyTimeout {
    deadline: Instant,
    pause: Option<Duration>,
    sleep: Pin<Box<Sleep>>,
}

struct BoundedBody<B, F> {
    body: Pin<Box<B>>,
    left_bytes: u64,
    too_large: F,
    timeout: Option<BodyTimeout>,
}

impl<B, F> Body for BoundedBody<B, F>
where
    B: Body<Data = Bytes, Error = Error>,
    F: Fn() -> Error + Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = this.body.as_mut().poll_frame(context) else {
            let has_expired = |timeout: &mut BodyTimeout| timeout.sleep.as_mut().poll(context).is_ready();
            return match this.timeout.as_mut().is_some_and(has_expired) {
                true => Poll::Ready(Some(Err(Error::HttpResponseTimeout))),
                false => Poll::Pending,
            };
        };
        if let Some(timeout) = &mut this.timeout {
            // Checked here too, because the timer is not polled while data is always ready.
            if Instant::now() >= timeout.deadline {
                return Poll::Ready(Some(Err(Error::HttpResponseTimeout)));
            }
            timeout.sleep.as_mut().reset(next_deadline(timeout.deadline, timeout.pause));
        }
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let size_bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        match this.left_bytes.checked_sub(size_bytes) {
            Some(left_bytes) => this.left_bytes = left_bytes,
            None => return Poll::Ready(Some(Err((this.too_large)()))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
