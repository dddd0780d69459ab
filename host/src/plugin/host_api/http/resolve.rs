//! Resolves the origin of a request to addresses that it may connect to.
//!
//! Each plugin has a share of the threads that ask the system's resolver. A lookup uses its share until it ends, even if its
//! request was dropped.
//!
//! A name is resolved once for each connection. All addresses of the answer are checked, and the connection uses one of
//! them. So a resolver cannot pass the check with one answer and have the connection use another.
//!
//! A granted name may resolve only to public addresses. All others (this machine, its network, cloud metadata, reserved
//! blocks) need a grant that names the address. An IPv6 address that embeds an IPv4 address is judged by that one.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use super::grants::{GrantHost, GrantOrigin, HttpGrants};
use super::quota::ConnectionQuota;

/// IPv4 blocks that are not public: the first address and the prefix length.
const RESERVED_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Blocks within 2000::/3 that are not public: special purposes and Teredo, and two for documentation.
const RESERVED_V6: [(Ipv6Addr, u32); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Asks for the addresses of a name. Blocks until there is an answer.
pub(super) type AddressLookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Asks the system's resolver.
pub fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// The addresses that the operator configured, and the system's resolver for other names.
#[derive(Clone)]
pub(super) struct AddressResolver {
    pub(super) configured: Arc<BTreeMap<String, Vec<IpAddr>>>,
    pub(super) quota: Arc<ConnectionQuota>,
    pub(super) look_up: AddressLookup,
}

/// Why there is no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("the name has no address")]
    Unknown,
    #[error("too many lookups are under way")]
    TooMany,
    /// No grant names the address.
    #[error("{0} is not a public address")]
    Prohibited(IpAddr),
}

impl AddressResolver {
    /// Resolves an origin.
    ///
    /// # Errors
    /// There is no address, or one of them is prohibited.
    pub(super) async fn allowed_addresses(
        &self,
        grants: &HttpGrants,
        origin: &GrantOrigin,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let addresses = match &origin.host {
            GrantHost::Address(address) => vec![*address],
            GrantHost::Name(name) => self.resolve(name).await?,
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

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(addresses) = self.configured.get(name) {
            return Ok(addresses.clone());
        }
        let permit = self.quota.acquire_lookup().await.ok_or(ResolveError::TooMany)?;
        let (look_up, name) = (self.look_up.clone(), name.to_owned());
        let work = move || {
            let addresses = look_up(&name);
            drop(permit);
            addresses
        };
        tokio::task::spawn_blocking(work).await.ok().and_then(Result::ok).ok_or(ResolveError::Unknown)
    }
}

/// Whether an address is public.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(embedded) => is_public_v4(embedded),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !RESERVED_V4.iter().any(|(first, length)| (bits ^ first.to_bits()) >> (32 - length) == 0)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    let is_in = |first: Ipv6Addr, length: u32| (bits ^ first.to_bits()) >> (128 - length) == 0;
    is_in(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)
        && !RESERVED_V6.iter().any(|(first, length)| is_in(*first, *length))
}

/// The IPv4 address to which packets for an IPv6 address go in the end: mapped, NAT64, 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
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
        look_up: fn(&str) -> io::Result<Vec<IpAddr>>,
    ) -> AddressResolver {
        AddressResolver { configured: Arc::new(configured), quota: quotas.of(plugin), look_up: Arc::new(look_up) }
    }

    async fn of(addresses: &[&str], granted: &[&str], url: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let configured = BTreeMap::from([("api.example".to_owned(), addresses)]);
        let resolver = system(&ConnectionQuotas::default(), "p", configured, look_up);
        let grants = granted.iter().map(|grant| grant.parse::<HttpGrant>().unwrap()).collect();
        resolver.allowed_addresses(&grants, &GrantOrigin::of(&url.parse().unwrap()).unwrap()).await
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

    #[test]
    fn public_addresses_are_told_from_others() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text} is not public");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.1",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text} is public");
        }
    }
}
