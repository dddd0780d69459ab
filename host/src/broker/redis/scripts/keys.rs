//! The names of the broker's keys in Redis.
//!
//! All names carry one hash tag, `{NAMESPACE:0}`, so that the keys of a script share a slot. The 0 is the number of the
//! shard; there is only one. `prelude.lua` relies on the order of [`StoreKeys::fixed`].

use bytes::Bytes;

use crate::broker::Lane;

/// The consumer group of every lane. `prelude.lua` has the same name.
pub const GROUP: &str = "es";

/// The names of one shard's keys.
#[derive(Debug)]
pub struct StoreKeys {
    prefix: String,
    fixed: [Bytes; 9],
}

impl StoreKeys {
    /// The names under a namespace.
    pub fn new(namespace: &str) -> Self {
        let prefix = format!("{{{namespace}:0}}");
        let fixed = ["epoch", "lanes", "due", "parked", "done", "failed", "ix", "counts", "hb"]
            .map(|name| Bytes::from(format!("{prefix}:{name}")));
        Self { prefix, fixed }
    }

    /// The first keys of every script: epoch, lanes, due, parked, done, failed, ix, counts, hb.
    pub fn fixed(&self) -> &[Bytes; 9] {
        &self.fixed
    }

    /// The set of lane names.
    pub fn lanes(&self) -> &Bytes {
        &self.fixed[1]
    }

    /// The sorted set of events that are due later.
    pub fn due(&self) -> &Bytes {
        &self.fixed[2]
    }

    /// The stream of processed events.
    pub fn done(&self) -> &Bytes {
        &self.fixed[4]
    }

    /// The stream of failed events.
    pub fn failed(&self) -> &Bytes {
        &self.fixed[5]
    }

    /// The stream of discarded events.
    pub fn discarded(&self) -> Bytes {
        Bytes::from(format!("{}:discarded", self.prefix))
    }

    /// The hash from event ids to places.
    pub fn index(&self) -> &Bytes {
        &self.fixed[6]
    }

    /// The hash of totals.
    pub fn counts(&self) -> &Bytes {
        &self.fixed[7]
    }

    /// The stream of a lane.
    pub fn lane(&self, lane: &Lane) -> Bytes {
        Bytes::from(format!("{}:q:{lane}", self.prefix))
    }

    /// The log of a lane's processed events.
    pub fn lane_log(&self, lane: &Lane) -> Bytes {
        Bytes::from(format!("{}:log:{lane}", self.prefix))
    }

    /// The set of plugins that have state.
    pub fn state_spaces(&self) -> Bytes {
        Bytes::from(format!("{}:state", self.prefix))
    }

    /// The sorted set of the times at which state keys expire.
    pub fn state_expiries(&self) -> Bytes {
        Bytes::from(format!("{}:state-until", self.prefix))
    }

    /// The hash with the state of a plugin.
    pub fn state_of(&self, plugin: &str) -> Bytes {
        Bytes::from(format!("{}:state:{plugin}", self.prefix))
    }

    /// The hash of API keys.
    pub fn api_keys(&self) -> Bytes {
        Bytes::from(format!("{}:keys", self.prefix))
    }

    /// The hash of the last uses of API keys.
    pub fn api_key_uses(&self) -> Bytes {
        Bytes::from(format!("{}:keys-used", self.prefix))
    }

    /// The hash of the pauses of plugins.
    pub fn pauses(&self) -> Bytes {
        Bytes::from(format!("{}:paused", self.prefix))
    }

    /// The stream of the audit.
    pub fn audit(&self) -> Bytes {
        Bytes::from(format!("{}:audit", self.prefix))
    }

    /// The key for an idempotency key.
    pub fn idempotency(&self, key: &[u8; 32]) -> Bytes {
        let mut name = self.idempotency_prefix();
        for byte in key {
            name.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            name.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        Bytes::from(name)
    }

    /// The hash of how many idempotency keys of each lane end when.
    pub fn idempotency_ends(&self) -> Bytes {
        Bytes::from(format!("{}:idem-ends", self.prefix))
    }

    /// The pattern of all idempotency keys. A namespace contains no special character of Redis patterns.
    pub fn idempotency_pattern(&self) -> String {
        format!("{}*", self.idempotency_prefix())
    }

    /// The idempotency key in a name that [`Self::idempotency`] made; `None` for any other name.
    pub fn idempotency_of(&self, name: &[u8]) -> Option<[u8; 32]> {
        let digits = std::str::from_utf8(name).ok()?.strip_prefix(&self.idempotency_prefix())?.as_bytes();
        let mut key = [0; 32];
        if digits.len() != 2 * key.len() {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
            let digit = |place: usize| char::from(pair[place]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(0)? << 4 | digit(1)?;
        }
        Some(key)
    }

    fn idempotency_prefix(&self) -> String {
        format!("{}:idem:", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_carries_the_hash_tag_of_the_shard() {
        let keys = StoreKeys::new("shop");
        let lane = keys.lane(&"orders".parse().unwrap());
        assert_eq!(lane, "{shop:0}:q:orders");
        assert_eq!(keys.idempotency(&[0xa5; 32]), format!("{{shop:0}}:idem:{}", "a5".repeat(32)));
        assert_eq!(keys.idempotency_of(&keys.idempotency(&[0xa5; 32])), Some([0xa5; 32]));
        assert_eq!(keys.idempotency_of(&keys.idempotency_ends()), None);
        for foreign in ["{shop:0}:idem:a5", "{shop:0}:epoch", &format!("{{shop:0}}:idem:{}", "g5".repeat(32))] {
            assert_eq!(keys.idempotency_of(foreign.as_bytes()), None, "{foreign}");
        }
        assert!(keys.fixed().iter().all(|name| name.starts_with(b"{shop:0}:")));
        assert_eq!((keys.done(), keys.failed()), (&keys.fixed()[4], &keys.fixed()[5]));
    }
}
