//! Counts the requests that this host refused for want of a key or a right, by reason, since its start.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a request was refused. The label of the metric is fixed, so no text of a client becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthFailure {
    /// The client sent no key.
    Missing,
    /// The text is no key.
    Malformed,
    /// There is no such key.
    Unknown,
    /// The key has expired.
    Expired,
    /// The key was revoked.
    Revoked,
    /// The key was rotated, and this is an earlier secret.
    Replaced,
    /// The keys of the store could not be read for too long.
    Unread,
    /// The client may not do this.
    NotPermitted,
}

impl AuthFailure {
    const ALL: [(Self, &'static str); AuthFailures::KINDS] = [
        (Self::Missing, "missing"),
        (Self::Malformed, "malformed"),
        (Self::Unknown, "unknown"),
        (Self::Expired, "expired"),
        (Self::Revoked, "revoked"),
        (Self::Replaced, "replaced"),
        (Self::Unread, "unread"),
        (Self::NotPermitted, "not-permitted"),
    ];
}

/// The totals.
#[derive(Debug, Default)]
pub(super) struct AuthFailures {
    totals: [AtomicU64; Self::KINDS],
}

impl AuthFailures {
    const KINDS: usize = 8;

    /// Counts a refusal.
    pub(super) fn note(&self, failure: AuthFailure) {
        for ((kind, _), total) in AuthFailure::ALL.iter().zip(&self.totals) {
            if *kind == failure {
                total.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The total of each reason.
    pub(super) fn totals(&self) -> Vec<(&'static str, u64)> {
        let named = AuthFailure::ALL.iter().zip(&self.totals);
        named.map(|((_, name), total)| (*name, total.load(Ordering::Relaxed))).collect()
    }
}
