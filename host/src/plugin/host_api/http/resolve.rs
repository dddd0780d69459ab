//! Resolves the origin of a request to addresses that it may connect to.
//!
//! Each plugin has a share of the threads that ask the system's resolver. A lookup uses its share until it ends, even if its
//! request was dropped.
//!
//! A name is resolved once for each connection. All addresses of the answer are checked, and the connection uses one of
//! them. So a resolver cannot pass the check with one answer and have the connection use another.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use async_trait::async_trait;

use super::address::is_public;
use super::grants::{GrantHost, GrantOrigin, HttpGrants};
use super::quota::ConnectionQuota;

/// Resolves names to addresses.
#[async_trait]
pub(super) trait AddressResolver: Send + Sync + fmt::Debug {
    /// Resolves a name.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// Asks the system's resolver. Blocks until it answers or gives up.
pub(super) type AddressLookup = fn(&str) -> io::Result<Vec<IpAddr>>;

/// The addresses that the operator configured, and the system's resolver for other names.
#[derive(Debug)]
pub(super) struct SystemResolver {
    pub(super) configured: Arc<BTreeMap<String, Vec<IpAddr>>>,
    pub(super) quota: Arc<ConnectionQuota>,
    pub(super) look_up: AddressLookup,
}

/// Resolves a name with the system's resolver. Blocks.
pub(super) fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

#[async_trait]
impl AddressResolver for SystemResolver {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(addresses) = self.configured.get(name) {
            return Ok(addresses.clone());
        }
        let permit = self.quota.acquire_lookup().await.ok_or(ResolveError::TooMany)?;
        let (look_up, name) = (self.look_up, name.to_owned());
        let work = move || {
            let addresses = look_up(&name);
            drop(permit);
            addresses
        };
        tokio::task::spawn_blocking(work).await.ok().and_then(Result::ok).ok_or(ResolveError::Unknown)
    }
}

/// Why there is no address to connect to.
#[derive(Debug)]
pub(super) enum ResolveError {
    /// The name has no address, or the resolver failed.
    Unknown,
    /// The plugin has used up its share of lookups.
    TooMany,
    /// The address is not public, and no grant names it.
    Prohibited(IpAddr),
}

/// Resolves an origin.
///
/// # Errors
/// There is no address, or one of them is prohibited.
pub(super) async fn allowed_addresses(
    resolver: &dyn AddressResolver,
    grants: &HttpGrants,
    origin: &GrantOrigin,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let addresses = match &origin.host {
        GrantHost::Address(address) => vec![*address],
        GrantHost::Name(name) => resolver.resolve(name).await?,
        GrantHost::Below(_) => Vec::new(),
    };
    if addresses.is_empty() {
        return Err(ResolveError::Unknown);
    }
    match addresses.iter().find(|address| !is_public(**address) && !grants.names_address(**address, origin)) {
        Some(prohibited) => Err(ResolveError::Prohibited(*prohibited)),
        None => Ok(addresses.into_iter().map(|address| SocketAddr::new(address, origin.port)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};

    use futures_util::FutureExt;

    use super::*;
    use crate::plugin::host_api::http::grants::HttpGrant;
    use crate::plugin::host_api::http::quota::ConnectionQuotas;

    fn system(
        quotas: &ConnectionQuotas,
        plugin: &str,
        configured: BTreeMap<String, Vec<IpAddr>>,
        look_up: AddressLookup,
    ) -> SystemResolver {
        SystemResolver { configured: Arc::new(configured), quota: quotas.of(plugin), look_up }
    }

    async fn of(addresses: &[&str], granted: &[&str], url: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let configured = BTreeMap::from([("api.example".to_owned(), addresses)]);
        let resolver = system(&ConnectionQuotas::default(), "p", configured, look_up);
        let grants = granted.iter().map(|grant| grant.parse::<HttpGrant>().unwrap()).collect();
        allowed_addresses(&resolver, &grants, &GrantOrigin::of(&url.parse().unwrap()).unwrap()).await
    }

    #[tokio::test]
    async fn one_private_address_prohibits_the_whole_answer() {
        let granted = ["https://api.example"];
        let found = of(&["8.8.8.8", "2606:4700::1"], &granted, "https://api.example").await.unwrap();
        assert_eq!(found, ["8.8.8.8:443".parse().unwrap(), "[2606:4700::1]:443".parse().unwrap()]);
        for address in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1", "0.0.0.0"] {
            let refused = of(&["8.8.8.8", address], &granted, "https://api.example").await.unwrap_err();
            assert!(matches!(refused, ResolveError::Prohibited(found) if found == address.parse::<IpAddr>().unwrap()));
        }
        assert!(matches!(of(&[], &granted, "https://api.example").await, Err(ResolveError::Unknown)));
    }

    #[tokio::test]
    async fn an_address_that_a_grant_names_is_allowed() {
        let granted = ["http://api.example:81", "http://10.0.0.7:81"];
        assert!(of(&["10.0.0.7"], &granted, "http://api.example:81").await.is_ok());
        assert!(of(&["10.0.0.7"], &granted, "http://10.0.0.7:81").await.is_ok());
        assert!(of(&["10.0.0.8"], &granted, "http://api.example:81").await.is_err());
        assert!(of(&["10.0.0.7"], &granted, "http://api.example:82").await.is_err());
    }

    static IS_SILENT: Mutex<bool> = Mutex::new(true);
    static SPEAKS: Condvar = Condvar::new();
    static ASKED: AtomicUsize = AtomicUsize::new(0);

    /// Does not answer while `IS_SILENT`.
    fn hangs(_: &str) -> io::Result<Vec<IpAddr>> {
        ASKED.fetch_add(1, Ordering::Relaxed);
        let silent = IS_SILENT.lock().unwrap();
        drop(SPEAKS.wait_while(silent, |silent| *silent).unwrap());
        Ok(vec![IpAddr::from([8, 8, 8, 8])])
    }

    #[tokio::test]
    async fn dropped_lookups_count_until_they_end_and_only_against_their_plugin() {
        let quotas = ConnectionQuotas::default();
        let slow = system(&quotas, "slow", BTreeMap::new(), hangs);
        let other = system(&quotas, "other", BTreeMap::new(), |_| Ok(vec![IpAddr::from([1, 1, 1, 1])]));
        for n in 0..100 {
            // Started and dropped.
            assert!(slow.resolve(&format!("{n}.example")).now_or_never().is_none());
        }
        assert!(matches!(slow.resolve("one.more.example").await, Err(ResolveError::TooMany)));
        assert_eq!(other.resolve("api.example").await.unwrap(), [IpAddr::from([1, 1, 1, 1])]);
        *IS_SILENT.lock().unwrap() = false;
        SPEAKS.notify_all();
        assert_eq!(slow.resolve("again.example").await.unwrap().len(), 1);
        assert_eq!(ASKED.load(Ordering::Relaxed), 9, "of a hundred, eight were started, and the last");
    }
}
