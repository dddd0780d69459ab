//! Sends the requests of one version of a plugin, over connections that its attempts share.

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

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(30);
/// The most of them for one place.
const MAX_IDLE: usize = 8;
/// The most of them in all; what is left of a plugin's connections is for requests under way.
const MAX_ALL_IDLE: usize = CONNECTIONS / 2;
/// The most that a response's head may take.
const MAX_HEAD_BYTES: usize = 64 * 1_024;

/// The outgoing HTTP of one version of a plugin.
pub(in crate::plugin) struct HttpNetwork {
    plugin: String,
    grants: Arc<HttpGrants>,
    limits: AttemptLimits,
    denials: Arc<DenialLog>,
    /// A guest may put them into the address that it asks for, and be denied.
    secrets: Arc<PluginSecrets>,
    /// For places that the operator wrote down, whose number is known.
    client: Client<HttpConnector, WasiBody>,
    /// For those below a domain, of which there may be any number: no connection is kept.
    client_once: Client<HttpConnector, WasiBody>,
    runtime: Handle,
}

/// What the networks of all plugins have in common.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct SharedNetwork {
    /// Where requests are sent from; guests wait elsewhere.
    pub(in crate::plugin) runtime: Handle,
    pub(in crate::plugin) roots: Arc<TrustRoots>,
    /// Addresses that the operator gave for names.
    pub(in crate::plugin) resolve: Arc<std::collections::BTreeMap<String, Vec<std::net::IpAddr>>>,
    pub(in crate::plugin) quotas: Arc<ConnectionQuotas>,
    /// Where this server itself listens, which no grant can name.
    pub(in crate::plugin) own: Arc<[std::net::SocketAddr]>,
}

/// That a request may be sent to a place.
pub(super) struct RequestPermit {
    pub(super) place: GrantOrigin,
}

/// Tasks of the connections go where the requests are sent from, and end with that runtime.
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
    /// Nothing is connected to yet.
    pub(in crate::plugin) fn new(
        plugin: &str,
        grants: HttpGrants,
        limits: AttemptLimits,
        (denials, secrets): (Arc<DenialLog>, Arc<PluginSecrets>),
        shared: &SharedNetwork,
    ) -> Self {
        let resolver = SystemResolver { given: shared.resolve.clone(), quota: shared.quotas.of(plugin), look_up };
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
        let (client, client_once) = (client(MAX_IDLE.min(MAX_ALL_IDLE / grants.named().max(1))), client(0));
        let (plugin, runtime) = (plugin.to_owned(), shared.runtime.clone());
        Self { plugin, grants, limits, denials, secrets, client, client_once, runtime }
    }

    pub(super) fn grants(&self) -> &HttpGrants {
        &self.grants
    }

    pub(super) fn limits(&self) -> &AttemptLimits {
        &self.limits
    }

    /// Sends a request that is granted. The answer may be awaited anywhere; dropping it breaks the request off.
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
        let client = if self.grants.names(&permit.place) { &self.client } else { &self.client_once };
        let sending = client.request(request);
        let task = self.runtime.spawn(async move { tokio::time::timeout_at(head_deadline.into(), sending).await });
        let task = AbortOnDropHandle::new(task);
        let network = self.clone();
        async move {
            match task.await {
                Ok(Ok(Ok(response))) => Ok(response.map(|body| {
                    body::incoming(body, network.limits.http_response_bytes, deadline, options.between_bytes_timeout)
                })),
                Ok(Ok(Err(error))) => Err(network.why(&error, &permit.place, &method)),
                Ok(Err(_)) => Err(Error::HttpResponseTimeout),
                Err(_) => Err(Error::InternalError(Some("the server is stopping".into()))),
            }
        }
    }

    /// A request that no grant allows.
    pub(super) fn deny(&self, place: &GrantOrigin, method: &Method, lacking: MissingGrant) {
        let line = match lacking {
            MissingGrant::Place => format!("\"{place}\""),
            MissingGrant::Method => format!("{{ url = \"{place}\", methods = [\"{method}\"] }}"),
        };
        self.tell(place, method, "it is not granted", &line);
    }

    /// A request to what is no place a grant could name.
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

    fn tell(&self, place: &GrantOrigin, method: &Method, why: &str, grant: &str) {
        let method: String = method.as_str().chars().take(32).collect();
        if !self.denials.count("http", &format!("{method} {place}")) {
            return;
        }
        let plugin = &self.plugin;
        let others = if self.grants.is_empty() { "" } else { " (beside what it has)" };
        let words = format!(
            "denied {method} {place}: {why}; {plugin}.toml would grant it{others} with: grants.http = [{grant}]"
        );
        tracing::warn!(plugin.id = %plugin, "{}", self.secrets.hide(&words));
    }

    fn tell_of_own(&self, place: &GrantOrigin, method: &Method) {
        if self.denials.is_new(&format!("own {place}")) {
            let method = self.secrets.hide(method.as_str());
            tracing::warn!(
                plugin.id = %self.plugin,
                "denied {method} {place}: this server itself listens there, which no grant can name, since a plugin is not to \
                 manage plugins and events; it publishes events with publish"
            );
        }
    }

    fn tell_of_too_many(&self, what: &str) {
        tracing::warn!(plugin.id = %self.plugin, "a request was refused: as many {what} as a plugin may have at once");
    }

    /// The guest only learns that it is the certificate.
    fn tell_of_certificate(&self, place: &GrantOrigin, why: &impl fmt::Display) {
        if self.denials.is_new(&format!("certificate {place}")) {
            let (place, why) = (self.secrets.hide(&place.to_string()), self.secrets.hide(&why.to_string()));
            tracing::warn!(
                plugin.id = %self.plugin,
                "{place} shows a certificate that is not accepted: {why}; an authority of one's own is added to the roots \
                 of the system, or its file is given to this server as SSL_CERT_FILE"
            );
        }
    }

    /// The error that the guest gets.
    fn why(&self, error: &legacy::Error, place: &GrantOrigin, method: &Method) -> Error {
        let mut cause = error.source();
        while let Some(found) = cause {
            if let Some(no_connection) = found.downcast_ref::<ConnectError>() {
                return match no_connection {
                    ConnectError::Unresolved => Error::DnsError { rcode: None, info_code: None },
                    ConnectError::TooManyLookups => {
                        self.tell_of_too_many("lookups of names are under way");
                        Error::DnsError { rcode: Some("too many lookups are under way".into()), info_code: None }
                    }
                    ConnectError::TooMany => {
                        self.tell_of_too_many("connections are open");
                        Error::ConnectionLimitReached
                    }
                    ConnectError::Prohibited(address) => {
                        let why = format!("{address} is no address of the internet");
                        self.tell(place, method, &why, &format!("\"{}\"", place.at(*address)));
                        Error::DestinationIpProhibited
                    }
                    ConnectError::Own => {
                        self.tell_of_own(place, method);
                        Error::DestinationIpProhibited
                    }
                    ConnectError::Dial(error) if error.kind() == io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                    ConnectError::Dial(_) => Error::ConnectionRefused,
                    ConnectError::Tls(_) => Error::TlsProtocolError,
                    ConnectError::Certificate(why) => {
                        self.tell_of_certificate(place, why);
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
