//! The names of everything that the broker keeps in Redis.
//!
//! All names carry one hash tag, `{NAMESPACE:0}`, so that scripts that touch several keys stay within one slot; the 0
//! is the number of the shard, and there is one. The order of [`Keys::fixed`] is known to `lua/prelude.lua`.

use bytes::Bytes;

use crate::broker::Lane;

/// The names of one shard's keys.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
    fixed: [Bytes; 9],
}

impl Keys {
    /// The names under a namespace.
    pub(super) fn new(namespace: &str) -> Self {
        let prefix = format!("{{{namespace}:0}}");
        let fixed = ["epoch", "lanes", "due", "parked", "done", "failed", "ix", "counts", "hb"]
            .map(|name| Bytes::from(format!("{prefix}:{name}")));
        Self { prefix, fixed }
    }

    /// The keys that every script is given first: epoch, lanes, due, parked, done, failed, ix, counts, hb.
    pub(super) fn fixed(&self) -> &[Bytes; 9] {
        &self.fixed
    }

    /// The stream of processed events.
    pub(super) fn done(&self) -> &Bytes {
        &self.fixed[4]
    }

    /// The stream of failed events.
    pub(super) fn failed(&self) -> &Bytes {
        &self.fixed[5]
    }

    /// The hash from the id of an event to its place.
    pub(super) fn index(&self) -> &Bytes {
        &self.fixed[6]
    }

    /// The work stream of a lane.
    pub(super) fn lane(&self, lane: &Lane) -> Bytes {
        Bytes::from(format!("{}:q:{lane}", self.prefix))
    }

    /// What is remembered under an idempotency key.
    pub(super) fn idempotency(&self, key: &[u8; 32]) -> Bytes {
        let mut name = format!("{}:idem:", self.prefix);
        for byte in key {
            name.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            name.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        Bytes::from(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_carries_the_hash_tag_of_the_shard() {
        let keys = Keys::new("shop");
        let lane = keys.lane(&"orders".parse().unwrap());
        assert_eq!(lane, "{shop:0}:q:orders");
        assert_eq!(keys.idempotency(&[0xa5; 32]), format!("{{shop:0}}:idem:{}", "a5".repeat(32)));
        assert!(keys.fixed().iter().all(|name| name.starts_with(b"{shop:0}:")));
        assert_eq!((keys.done(), keys.failed()), (&keys.fixed()[4], &keys.fixed()[5]));
    }
}
