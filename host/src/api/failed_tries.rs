//! Counts the keys that were refused, by client, so that nobody tries many of them.
//!
//! The memory is fixed. Clients may share a counter, which harms nobody: a key that is valid is never counted or refused.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters.
const COUNTERS: usize = 1_024;
/// The most tries of a client in a minute that are answered with their reason.
const MAX_TRIES_PER_MINUTE: u64 = 60;
const MINUTE_S: u64 = 60;

/// The tries of the present minute.
#[derive(Debug)]
pub(super) struct FailedTries {
    hasher: RandomState,
    /// Each holds a minute in its upper half and a count in its lower one.
    counters: Box<[AtomicU64]>,
}

impl Default for FailedTries {
    fn default() -> Self {
        let counters = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Self { hasher: RandomState::new(), counters }
    }
}

impl FailedTries {
    /// Counts a try.
    ///
    /// # Errors
    /// The client has tried too often. Holds the time until it may try again, in seconds.
    pub(super) fn note(&self, client: IpAddr, unix_s: u64) -> Result<(), u64> {
        let place = self.hasher.hash_one(network(client)) % self.counters.len() as u64;
        let minute = unix_s / MINUTE_S;
        let count = |counter: u64| if counter >> 32 == minute { counter & u64::from(u32::MAX) } else { 0 };
        let Some(counter) = usize::try_from(place).ok().and_then(|place| self.counters.get(place)) else {
            return Ok(());
        };
        let next = |counter: u64| Some((minute << 32) | (count(counter) + 1).min(u64::from(u32::MAX)));
        let before = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
        if count(before) < MAX_TRIES_PER_MINUTE { Ok(()) } else { Err(MINUTE_S - unix_s % MINUTE_S) }
    }
}

/// The network of a client. Who has one address of IPv6 usually has a whole /64.
fn network(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or_default() | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_tries_many_keys_waits_for_the_next_minute() {
        let tries = FailedTries::default();
        let client: IpAddr = "10.0.0.1".parse().unwrap();
        assert!((0..MAX_TRIES_PER_MINUTE).all(|_| tries.note(client, 600).is_ok()));
        assert_eq!((tries.note(client, 600), tries.note(client, 645)), (Err(60), Err(15)));
        assert_eq!(tries.note("::ffff:10.0.0.1".parse().unwrap(), 645), Err(15));
        let others = (0..20).filter(|n| tries.note(format!("10.0.1.{n}").parse().unwrap(), 645).is_ok()).count();
        assert!(others >= 15, "{others} of 20 other clients have counters of their own");
        assert_eq!(tries.note(client, 660), Ok(()));
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    }
}
