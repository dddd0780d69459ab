//! From a place to the addresses that may be connected to.
//!
//! A name is resolved once for each connection, every address of the answer is checked, and one of those very addresses
//! is connected to: a resolver that answers differently the next time gains nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;

use super::address::is_public;
use super::grants::{Host, HttpGrants, Place};

/// Where the addresses of names come from.
#[async_trait]
pub(super) trait Resolve: Send + Sync + fmt::Debug {
    /// The addresses of a name.
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the system, but for names whose addresses the operator gave.
#[derive(Debug)]
pub(super) struct System {
    pub(super) given: BTreeMap<String, Vec<IpAddr>>,
}

#[async_trait]
impl Resolve for System {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match self.given.get(name) {
            Some(addresses) => Ok(addresses.clone()),
            None => Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect()),
        }
    }
}

/// Why there is nothing to connect to.
#[derive(Debug)]
pub(super) enum Unresolved {
    /// The name has no address, or nobody can say.
    Unknown,
    /// An address that only a grant for that address allows.
    Prohibited(IpAddr),
}

/// The addresses of a place, each of which may be connected to.
pub(super) async fn allowed(
    resolver: &dyn Resolve,
    grants: &HttpGrants,
    place: &Place,
) -> Result<Vec<SocketAddr>, Unresolved> {
    let addresses = match &place.host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => resolver.addresses(name).await.map_err(|_| Unresolved::Unknown)?,
        Host::Below(_) => Vec::new(),
    };
    if addresses.is_empty() {
        return Err(Unresolved::Unknown);
    }
    match addresses.iter().find(|address| !is_public(**address) && !grants.names_address(**address, place)) {
        Some(prohibited) => Err(Unresolved::Prohibited(*prohibited)),
        None => Ok(addresses.into_iter().map(|address| SocketAddr::new(address, place.port)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::grants::HttpGrant;
    use super::*;

    async fn of(addresses: &[&str], granted: &[&str], url: &str) -> Result<Vec<SocketAddr>, Unresolved> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let resolver = System { given: BTreeMap::from([("api.example".to_owned(), addresses)]) };
        let grants = granted.iter().map(|grant| grant.parse::<HttpGrant>().unwrap()).collect();
        allowed(&resolver, &grants, &Place::of(&url.parse().unwrap()).unwrap()).await
    }

    #[tokio::test]
    async fn one_address_that_is_not_public_spoils_the_answer() {
        let granted = ["https://api.example"];
        let found = of(&["8.8.8.8", "2606:4700::1"], &granted, "https://api.example").await.unwrap();
        assert_eq!(found, ["8.8.8.8:443".parse().unwrap(), "[2606:4700::1]:443".parse().unwrap()]);
        for address in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1", "0.0.0.0"] {
            let refused = of(&["8.8.8.8", address], &granted, "https://api.example").await.unwrap_err();
            assert!(matches!(refused, Unresolved::Prohibited(found) if found == address.parse::<IpAddr>().unwrap()));
        }
        assert!(matches!(of(&[], &granted, "https://api.example").await, Err(Unresolved::Unknown)));
    }

    #[tokio::test]
    async fn an_address_that_was_written_down_may_be_connected_to() {
        let granted = ["http://api.example:81", "http://10.0.0.7:81"];
        assert!(of(&["10.0.0.7"], &granted, "http://api.example:81").await.is_ok());
        assert!(of(&["10.0.0.7"], &granted, "http://10.0.0.7:81").await.is_ok());
        assert!(of(&["10.0.0.8"], &granted, "http://api.example:81").await.is_err());
        assert!(of(&["10.0.0.7"], &granted, "http://api.example:82").await.is_err());
    }
}
