//! From a place to the addresses that may be connected to.
//!
//! Each plugin has its share of the threads on which the resolver of the system is asked. A lookup keeps it to its end,
//! though nobody may wait for it any more.
//!
//! A name is resolved once for each connection, every address of the answer is checked, and one of those very addresses
//! is connected to: a resolver that answers differently the next time gains nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use async_trait::async_trait;

use super::address::is_public;
use super::grants::{GrantHost, GrantOrigin, HttpGrants};
use super::quota::ConnectionQuota;

/// Where the addresses of names come from.
#[async_trait]
pub(super) trait AddressResolver: Send + Sync + fmt::Debug {
    /// The addresses of a name.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// Asks the resolver of the system. Blocks, for as long as that takes.
pub(super) type AddressLookup = fn(&str) -> io::Result<Vec<IpAddr>>;

/// The resolver of the system, but for names whose addresses the operator gave.
#[derive(Debug)]
pub(super) struct SystemResolver {
    pub(super) given: Arc<BTreeMap<String, Vec<IpAddr>>>,
    pub(super) quota: Arc<ConnectionQuota>,
    pub(super) look_up: AddressLookup,
}

/// The addresses of a name, as the system knows them. Blocks.
pub(super) fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

#[async_trait]
impl AddressResolver for SystemResolver {
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(addresses) = self.given.get(name) {
            return Ok(addresses.clone());
        }
        let permit = self.quota.lookup().await.ok_or(ResolveError::TooMany)?;
        let (look_up, name) = (self.look_up, name.to_owned());
        let work = move || {
            let addresses = look_up(&name);
            drop(permit);
            addresses
        };
        tokio::task::spawn_blocking(work).await.ok().and_then(Result::ok).ok_or(ResolveError::Unknown)
    }
}

/// Why there is nothing to connect to.
#[derive(Debug)]
pub(super) enum ResolveError {
    /// The name has no address, or nobody can say.
    Unknown,
    /// As many lookups of the plugin are under way as it may have.
    TooMany,
    /// An address that only a grant for that address allows.
    Prohibited(IpAddr),
}

/// The addresses of a place, each of which may be connected to.
pub(super) async fn allowed(
    resolver: &dyn AddressResolver,
    grants: &HttpGrants,
    place: &GrantOrigin,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let addresses = match &place.host {
        GrantHost::Address(address) => vec![*address],
        GrantHost::Name(name) => resolver.addresses(name).await?,
        GrantHost::Below(_) => Vec::new(),
    };
    if addresses.is_empty() {
        return Err(ResolveError::Unknown);
    }
    match addresses.iter().find(|address| !is_public(**address) && !grants.names_address(**address, place)) {
        Some(prohibited) => Err(ResolveError::Prohibited(*prohibited)),
        None => Ok(addresses.into_iter().map(|address| SocketAddr::new(address, place.port)).collect()),
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
        given: BTreeMap<String, Vec<IpAddr>>,
        look_up: AddressLookup,
    ) -> SystemResolver {
        SystemResolver { given: Arc::new(given), quota: quotas.of(plugin), look_up }
    }

    async fn of(addresses: &[&str], granted: &[&str], url: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let given = BTreeMap::from([("api.example".to_owned(), addresses)]);
        let resolver = system(&ConnectionQuotas::default(), "p", given, look_up);
        let grants = granted.iter().map(|grant| grant.parse::<HttpGrant>().unwrap()).collect();
        allowed(&resolver, &grants, &GrantOrigin::of(&url.parse().unwrap()).unwrap()).await
    }

    #[tokio::test]
    async fn one_address_that_is_not_public_spoils_the_answer() {
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
    async fn an_address_that_was_written_down_may_be_connected_to() {
        let granted = ["http://api.example:81", "http://10.0.0.7:81"];
        assert!(of(&["10.0.0.7"], &granted, "http://api.example:81").await.is_ok());
        assert!(of(&["10.0.0.7"], &granted, "http://10.0.0.7:81").await.is_ok());
        assert!(of(&["10.0.0.8"], &granted, "http://api.example:81").await.is_err());
        assert!(of(&["10.0.0.7"], &granted, "http://api.example:82").await.is_err());
    }

    static IS_SILENT: Mutex<bool> = Mutex::new(true);
    static SPEAKS: Condvar = Condvar::new();
    static ASKED: AtomicUsize = AtomicUsize::new(0);

    /// Does not answer before it is to.
    fn hangs(_: &str) -> io::Result<Vec<IpAddr>> {
        ASKED.fetch_add(1, Ordering::Relaxed);
        let silent = IS_SILENT.lock().unwrap();
        drop(SPEAKS.wait_while(silent, |silent| *silent).unwrap());
        Ok(vec![IpAddr::from([8, 8, 8, 8])])
    }

    #[tokio::test]
    async fn lookups_that_nobody_waits_for_count_until_they_end_and_only_against_their_plugin() {
        let quotas = ConnectionQuotas::default();
        let slow = system(&quotas, "slow", BTreeMap::new(), hangs);
        let other = system(&quotas, "other", BTreeMap::new(), |_| Ok(vec![IpAddr::from([1, 1, 1, 1])]));
        for n in 0..100 {
            // Begun and given up.
            assert!(slow.addresses(&format!("{n}.example")).now_or_never().is_none());
        }
        assert!(matches!(slow.addresses("one.more.example").await, Err(ResolveError::TooMany)));
        assert_eq!(other.addresses("api.example").await.unwrap(), [IpAddr::from([1, 1, 1, 1])]);
        *IS_SILENT.lock().unwrap() = false;
        SPEAKS.notify_all();
        assert_eq!(slow.addresses("again.example").await.unwrap().len(), 1);
        assert_eq!(ASKED.load(Ordering::Relaxed), 9, "of a hundred, eight were begun, and the last");
    }
}
