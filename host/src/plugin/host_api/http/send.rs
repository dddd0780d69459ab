//! Sends the requests of one version of a plugin over a pool of connections, and logs denials.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::{Method, Request, Response, Uri};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::TokioTimer;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::body;
use super::connect::{ConnectError, HttpConnector, TrustRoots};
use super::grants::{GrantOrigin, HttpGrants, MissingGrant};
use super::quota::{CONNECTIONS, ConnectionQuotas};
use super::resolve::{AddressResolver, SystemResolver, look_up};
use crate::plugin::AttemptLimits;
use crate::plugin::host_api::denials::DenialLog;
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
pub(in crate::plugin) struct HttpNetwork {
    plugin: String,
    grants: Arc<HttpGrants>,
    limits: AttemptLimits,
    denials: Arc<DenialLog>,
    /// Hidden in log lines: a guest may put secrets into a URL that is denied.
    secrets: Arc<PluginSecrets>,
    /// For origins that a grant names exactly.
    client: Client<HttpConnector, WasiBody>,
    /// For origins below a domain. It keeps no idle connections, because there may be any number of them.
    client_once: Client<HttpConnector, WasiBody>,
    runtime: Handle,
}

/// What the networks of all plugins share.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct SharedNetwork {
    /// The runtime that sends requests. It is not one of the guests' runtimes.
    pub(in crate::plugin) runtime: Handle,
    pub(in crate::plugin) roots: Arc<TrustRoots>,
    /// The addresses of names that the operator configured.
    pub(in crate::plugin) resolve: Arc<std::collections::BTreeMap<String, Vec<std::net::IpAddr>>>,
    pub(in crate::plugin) quotas: Arc<ConnectionQuotas>,
    /// The addresses on which this server listens. No grant allows them.
    pub(in crate::plugin) own: Arc<[std::net::SocketAddr]>,
}

/// The permission to send a request to an origin.
pub(super) struct RequestPermit {
    pub(super) origin: GrantOrigin,
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
    pub(in crate::plugin) fn new(
        plugin: &str,
        grants: HttpGrants,
        limits: AttemptLimits,
        (denials, secrets): (Arc<DenialLog>, Arc<PluginSecrets>),
        shared: &SharedNetwork,
    ) -> Self {
        let resolver = SystemResolver { configured: shared.resolve.clone(), quota: shared.quotas.of(plugin), look_up };
        Self::with_resolver(plugin, grants, limits, (denials, secrets), shared, Arc::new(resolver))
    }

    pub(super) fn with_resolver(
        plugin: &str,
        grants: HttpGrants,
        limits: AttemptLimits,
        (denials, secrets): (Arc<DenialLog>, Arc<PluginSecrets>),
        shared: &SharedNetwork,
        resolver: Arc<dyn AddressResolver>,
    ) -> Self {
        let grants = Arc::new(grants);
        let (roots, quota) = (shared.roots.clone(), shared.quotas.of(plugin));
        let connector = HttpConnector { grants: grants.clone(), resolver, roots, quota, own: shared.own.clone() };
        let client = |max_idle: usize| {
            Client::builder(RuntimeSpawner(shared.runtime.clone()))
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(max_idle)
                .pool_timer(TokioTimer::new())
                .http1_max_buf_size(MAX_HEAD_BYTES)
                .build(connector.clone())
        };
        let (client, client_once) = (client(MAX_IDLE.min(MAX_ALL_IDLE / grants.exact_count().max(1))), client(0));
        let (plugin, runtime) = (plugin.to_owned(), shared.runtime.clone());
        Self { plugin, grants, limits, denials, secrets, client, client_once, runtime }
    }

    pub(super) fn grants(&self) -> &HttpGrants {
        &self.grants
    }

    pub(super) fn limits(&self) -> &AttemptLimits {
        &self.limits
    }

    /// Sends a permitted request. The future may be awaited on any runtime. Dropping it cancels the request.
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<WasiBody>,
        permit: RequestPermit,
        options: RequestOptions,
    ) -> impl Future<Output = Result<Response<WasiBody>, Error>> + Send + use<> {
        let began = Instant::now();
        let deadline = began + Duration::from_millis(self.limits.http_timeout_ms);
        let wanted =
            options.first_byte_timeout.map(|head| head.saturating_add(options.connect_timeout.unwrap_or(IDLE)));
        let head_deadline = wanted.and_then(|wanted| began.checked_add(wanted)).map_or(deadline, |at| at.min(deadline));
        let request = request.map(|body| body::outgoing(body, self.limits.http_request_bytes));
        let method = request.method().clone();
        let client = if self.grants.names(&permit.origin) { &self.client } else { &self.client_once };
        let sending = client.request(request);
        let task = self.runtime.spawn(async move { tokio::time::timeout_at(head_deadline.into(), sending).await });
        let task = AbortOnDropHandle::new(task);
        let network = self.clone();
        async move {
            match task.await {
                Ok(Ok(Ok(response))) => Ok(response.map(|body| {
                    body::incoming(body, network.limits.http_response_bytes, deadline, options.between_bytes_timeout)
                })),
                Ok(Ok(Err(error))) => Err(network.guest_error(&error, &permit.origin, &method)),
                Ok(Err(_)) => Err(Error::HttpResponseTimeout),
                Err(_) => Err(Error::InternalError(Some("the server is stopping".into()))),
            }
        }
    }

    /// Counts and logs a request that no grant allows.
    pub(super) fn deny(&self, origin: &GrantOrigin, method: &Method, lacking: MissingGrant) {
        let line = match lacking {
            MissingGrant::Origin => format!("\"{origin}\""),
            MissingGrant::Method => format!("{{ url = \"{origin}\", methods = [\"{method}\"] }}"),
        };
        self.log_denial(origin, method, "it is not granted", &line);
    }

    /// Counts and logs a request to a target that no grant could name.
    pub(super) fn deny_unnamed(&self, uri: &Uri) {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        let target: String = self.secrets.hide(host).chars().take(256).collect();
        if self.denials.count("http", &target) {
            tracing::warn!(
                plugin.id = %self.plugin,
                "denied HTTP to {target:?}: neither a name nor an address as it is usually written; it cannot be granted"
            );
        }
    }

    fn log_denial(&self, origin: &GrantOrigin, method: &Method, reason: &str, grant: &str) {
        let method: String = method.as_str().chars().take(32).collect();
        if !self.denials.count("http", &format!("{method} {origin}")) {
            return;
        }
        let plugin = &self.plugin;
        let others = if self.grants.is_empty() { "" } else { " (beside what it has)" };
        let words = format!(
            "denied {method} {origin}: {reason}; {plugin}.toml would grant it{others} with: grants.http = [{grant}]"
        );
        tracing::warn!(plugin.id = %plugin, "{}", self.secrets.hide(&words));
    }

    fn log_own_listener(&self, origin: &GrantOrigin, method: &Method) {
        if self.denials.is_first(&format!("own {origin}")) {
            let method = self.secrets.hide(method.as_str());
            tracing::warn!(
                plugin.id = %self.plugin,
                "denied {method} {origin}: this server itself listens there. No grant allows that, because a plugin must not \
                 manage plugins and events; use publish to publish events"
            );
        }
    }

    fn log_used_up_share(&self, share: &str) {
        tracing::warn!(plugin.id = %self.plugin, "a request was refused: as many {share} as a plugin may have at once");
    }

    /// Logs why a certificate was refused. The guest only learns that it was.
    fn log_certificate(&self, origin: &GrantOrigin, reason: &impl fmt::Display) {
        if self.denials.is_first(&format!("certificate {origin}")) {
            let (origin, reason) = (self.secrets.hide(&origin.to_string()), self.secrets.hide(&reason.to_string()));
            tracing::warn!(
                plugin.id = %self.plugin,
                "{origin} shows a certificate that is not accepted: {reason}; to trust your own authority, add it to the \
                 roots of the system, or set SSL_CERT_FILE for this server to its file"
            );
        }
    }

    /// The error that the guest gets. Logs what the operator must know.
    fn guest_error(&self, error: &legacy::Error, origin: &GrantOrigin, method: &Method) -> Error {
        let mut cause = error.source();
        while let Some(found) = cause {
            if let Some(no_connection) = found.downcast_ref::<ConnectError>() {
                return match no_connection {
                    ConnectError::Unresolved => Error::DnsError { rcode: None, info_code: None },
                    ConnectError::TooManyLookups => {
                        self.log_used_up_share("lookups of names are under way");
                        Error::DnsError { rcode: Some("too many lookups are under way".into()), info_code: None }
                    }
                    ConnectError::TooMany => {
                        self.log_used_up_share("connections are open");
                        Error::ConnectionLimitReached
                    }
                    ConnectError::Prohibited(address) => {
                        let reason = format!("{address} is not a public address");
                        self.log_denial(origin, method, &reason, &format!("\"{}\"", origin.with_address(*address)));
                        Error::DestinationIpProhibited
                    }
                    ConnectError::Own => {
                        self.log_own_listener(origin, method);
                        Error::DestinationIpProhibited
                    }
                    ConnectError::Dial(error) if error.kind() == io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                    ConnectError::Dial(_) => Error::ConnectionRefused,
                    ConnectError::Tls(_) => Error::TlsProtocolError,
                    ConnectError::Certificate(why) => {
                        self.log_certificate(origin, why);
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

impl fmt::Debug for HttpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("plugin", &self.plugin).field("grants", &self.grants).finish_non_exhaustive()
    }
}
