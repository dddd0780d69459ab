//! Measures the requests of one key against its rate.
//!
//! The gauge is one number: the moment at which all requests so far would be paid off if each took its share of the time. A
//! request passes unless that moment is too far ahead. A batch pays for each of its events, afterwards: so it always fits,
//! and the next request waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::api_key::RequestRate;

/// The rate of a key on this host, and what was used of it.
#[derive(Debug)]
pub(super) struct RateGauge {
    rate: RequestRate,
    begun: Instant,
    /// Nanoseconds after `begun`.
    paid_off_ns: AtomicU64,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RateLeft {
    /// The requests that this host would still answer now.
    pub(super) requests: u64,
    /// The time until all of the rate is free again, in seconds.
    pub(super) reset_s: u64,
}

/// The rate is used up. Holds the time until the next request passes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RateUsedUp(pub(super) u64);

const NS_PER_S: u64 = 1_000_000_000;

impl RateGauge {
    /// A gauge of which nothing is used.
    pub(super) fn new(rate: RequestRate, now: Instant) -> Self {
        Self { rate, begun: now, paid_off_ns: AtomicU64::new(0) }
    }

    pub(super) fn rate(&self) -> RequestRate {
        self.rate
    }

    /// Takes one request, if the rate allows it. Each of `hosts` allows an equal part of the rate.
    pub(super) fn take(&self, hosts: u64, now: Instant) -> Result<RateLeft, RateUsedUp> {
        let (now_ns, share_ns, period_ns) = (self.elapsed_ns(now), self.share_ns(hosts), self.period_ns());
        // At least one request passes, however small the part of a host.
        let most_ahead_ns = period_ns.saturating_sub(share_ns);
        let paid = self.paid_off_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_off_ns| {
            let paid_off_ns = paid_off_ns.max(now_ns);
            (paid_off_ns - now_ns <= most_ahead_ns).then_some(paid_off_ns + share_ns)
        });
        match paid {
            Ok(before_ns) => {
                let ahead_ns = before_ns.max(now_ns) - now_ns + share_ns;
                let requests = period_ns.saturating_sub(ahead_ns) / share_ns.max(1);
                Ok(RateLeft { requests, reset_s: ahead_ns.div_ceil(NS_PER_S) })
            }
            Err(paid_off_ns) => Err(RateUsedUp((paid_off_ns - now_ns - most_ahead_ns).div_ceil(NS_PER_S).max(1))),
        }
    }

    /// Pays for more events of a request that has passed.
    pub(super) fn charge(&self, events: u64, hosts: u64, now: Instant) {
        let (now_ns, cost_ns) = (self.elapsed_ns(now), events.saturating_mul(self.share_ns(hosts)));
        let pay = |paid_off_ns: u64| Some(paid_off_ns.max(now_ns).saturating_add(cost_ns));
        // The closure always returns a value.
        let _ = self.paid_off_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }

    fn elapsed_ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_nanos()).unwrap_or(u64::MAX / 2)
    }

    fn period_ns(&self) -> u64 {
        self.rate.period_ms() * 1_000_000
    }

    /// The time that one request takes of the rate on this host.
    fn share_ns(&self, hosts: u64) -> u64 {
        self.period_ns().saturating_mul(hosts.max(1)) / u64::from(self.rate.requests())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gauge(rate: &str) -> (RateGauge, Instant) {
        let now = Instant::now();
        (RateGauge::new(rate.parse().unwrap(), now), now)
    }

    #[test]
    fn a_rate_may_be_used_at_once_and_comes_back_evenly() {
        let (gauge, begun) = gauge("4/s");
        let at = |ms| begun + Duration::from_millis(ms);
        let left: Vec<_> = (0..4).map(|_| gauge.take(1, at(0)).unwrap().requests).collect();
        assert_eq!(left, [3, 2, 1, 0]);
        assert_eq!(gauge.take(1, at(0)), Err(RateUsedUp(1)));
        assert_eq!(gauge.take(1, at(249)), Err(RateUsedUp(1)));
        assert_eq!(gauge.take(1, at(250)), Ok(RateLeft { requests: 0, reset_s: 1 }));
        assert_eq!(gauge.take(1, at(499)), Err(RateUsedUp(1)));
        assert_eq!(gauge.take(1, at(60_000)).unwrap().requests, 3);
    }

    #[test]
    fn hosts_share_a_rate() {
        let (gauge, begun) = gauge("4/s");
        let passed = (0..100).filter(|n| gauge.take(2, begun + Duration::from_millis(n * 100)).is_ok()).count();
        assert!((20..=22).contains(&passed), "{passed} in ten seconds on one of two hosts");
        // A part of less than one request still lets one pass from time to time.
        let (gauge, begun) = self::gauge("1/s");
        assert!(gauge.take(4, begun).is_ok());
        assert_eq!(gauge.take(4, begun + Duration::from_secs(1)), Err(RateUsedUp(3)));
        assert!(gauge.take(4, begun + Duration::from_secs(4)).is_ok());
    }

    #[test]
    fn a_batch_always_fits_and_is_paid_off_later() {
        let (gauge, begun) = gauge("10/s");
        assert!(gauge.take(1, begun).is_ok());
        gauge.charge(999, 1, begun);
        assert_eq!(gauge.take(1, begun), Err(RateUsedUp(100)));
        assert_eq!(gauge.take(1, begun + Duration::from_secs(98)), Err(RateUsedUp(2)));
        assert!(gauge.take(1, begun + Duration::from_millis(99_100)).is_ok());
    }
}
