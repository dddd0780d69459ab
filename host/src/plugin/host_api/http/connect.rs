//! Makes connections for the pool of a plugin: resolves, checks, dials and, for `https`, encrypts.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, crypto};
use tower::Service;

use super::grants::{GrantHost, GrantOrigin, HttpGrants, UrlScheme};
use super::quota::{ConnectionQuota, OutgoingPermit};
use super::resolve::{AddressResolver, ResolveError};

/// The trusted roots for certificates: those of this system and those that browsers trust. They are loaded for the first
/// `https` request and shared by all plugins.
#[derive(Debug, Default)]
pub struct TrustRoots(OnceLock<Option<Arc<ClientConfig>>>);

impl TrustRoots {
    fn config(&self) -> Option<Arc<ClientConfig>> {
        let read = || {
            let mut roots = RootCertStore::empty();
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            // Roots that cannot be read are skipped.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let provider = Arc::new(crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
            Some(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
        };
        self.0.get_or_init(read).clone()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("there are too many connections")]
    TooMany,
    #[error("this server itself listens there")]
    Own,
    #[error("no address answers: {0}")]
    Dial(#[source] io::Error),
    #[error("no encrypted connection: {0}")]
    Tls(#[source] io::Error),
    #[error("the certificate is not accepted: {0}")]
    Certificate(rustls::CertificateError),
}

impl ConnectError {
    fn of_tls(error: io::Error) -> Self {
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::Certificate(why.clone()),
            _ => Self::Tls(error),
        }
    }
}

/// Makes the connections of one plugin.
#[derive(Clone)]
pub(super) struct HttpConnector {
    pub(super) grants: Arc<HttpGrants>,
    pub(super) resolver: AddressResolver,
    pub(super) roots: Arc<TrustRoots>,
    pub(super) quota: Arc<ConnectionQuota>,
    /// Where this server itself listens.
    pub(super) own: Arc<[SocketAddr]>,
}

impl HttpConnector {
    async fn connect(self, uri: Uri) -> Result<HttpStream, ConnectError> {
        let origin = GrantOrigin::of(&uri).ok_or(ResolveError::Unknown)?;
        let addresses = self.resolver.allowed_addresses(&self.grants, &origin).await?;
        let hold = self.quota.acquire_connection().await.ok_or(ConnectError::TooMany)?;
        let tcp = TcpStream::connect(&*addresses).await.map_err(ConnectError::Dial)?;
        // Checked after connecting, because only then is it certain where the connection leads.
        let ends = tcp.peer_addr().and_then(|peer| Ok((tcp.local_addr()?, peer))).map_err(ConnectError::Dial)?;
        if self.own.iter().any(|listener| leads_to(*listener, ends)) {
            return Err(ConnectError::Own);
        }
        // Requests are small, and a guest waits for them.
        let _ = tcp.set_nodelay(true);
        if origin.scheme == UrlScheme::Http {
            return Ok(HttpStream { stream: Box::new(tcp), _hold: hold });
        }
        let server = match origin.host {
            GrantHost::Address(address) => ServerName::from(address),
            GrantHost::Name(name) | GrantHost::Below(name) => {
                ServerName::try_from(name).map_err(|error| ConnectError::Tls(io::Error::other(error)))?
            }
        };
        let roots = self.roots.clone();
        let config = tokio::task::spawn_blocking(move || roots.config()).await.ok().flatten();
        let config = config.ok_or_else(|| ConnectError::Tls(io::Error::other("no encryption on this system")))?;
        let tls = TlsConnector::from(config).connect(server, tcp).await.map_err(ConnectError::of_tls)?;
        Ok(HttpStream { stream: Box::new(tls), _hold: hold })
    }
}

/// Whether a connection with these local and peer addresses leads to a listener of this machine. When a machine connects
/// to itself, both addresses are the same or the peer is a loopback address.
fn leads_to(listener: SocketAddr, (local, peer): (SocketAddr, SocketAddr)) -> bool {
    let [listening, local_ip, peer_ip] = [listener, local, peer].map(|end| end.ip().to_canonical());
    let is_own = peer_ip == listening || peer_ip.is_loopback() || peer_ip == local_ip;
    peer.port() == listener.port() && is_own
}

impl Service<Uri> for HttpConnector {
    type Response = TokioIo<HttpStream>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Self::Response, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(uri).await.map(TokioIo::new) })
    }
}

trait DuplexStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> DuplexStream for T {}

/// A connection, encrypted or not.
pub(super) struct HttpStream {
    stream: Box<dyn DuplexStream>,
    /// Released when the connection is closed.
    _hold: OutgoingPermit,
}

impl Connection for HttpStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_to_this_machine_is_recognized_by_its_addresses() {
        let leads = |listener: &str, local: &str, peer: &str| {
            leads_to(listener.parse().unwrap(), (local.parse().unwrap(), peer.parse().unwrap()))
        };
        for (listener, local, peer) in [
            ("127.0.0.1:3000", "127.0.0.1:50000", "127.0.0.1:3000"),
            ("0.0.0.0:3000", "127.0.0.1:50000", "127.0.0.9:3000"),
            ("0.0.0.0:3000", "10.0.0.7:50000", "10.0.0.7:3000"),
            ("[::]:3000", "[::ffff:10.0.0.7]:50000", "[::ffff:10.0.0.7]:3000"),
            ("[::]:3000", "[::1]:50000", "[::1]:3000"),
            ("10.0.0.7:3000", "10.0.0.8:50000", "10.0.0.7:3000"),
        ] {
            assert!(leads(listener, local, peer), "{local} to {peer} leads to {listener}");
        }
        for (listener, local, peer) in [
            ("127.0.0.1:3000", "127.0.0.1:50000", "127.0.0.1:3001"),
            ("0.0.0.0:3000", "10.0.0.7:50000", "10.0.0.8:3000"),
        ] {
            assert!(!leads(listener, local, peer), "{local} to {peer} does not lead to {listener}");
        }
    }
}
