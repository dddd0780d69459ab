//! The settings of a store, and the kinds of stores that a broker URL names.

use std::path::PathBuf;

use crate::secret::is_address;

/// A lane without a limit of its own may hold one in so many of `max_waiting` events.
pub(super) const LANE_SHARE: u64 = 5;

/// The settings of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerOptions {
    /// The prefix of every key in a store that several deployments share.
    pub namespace: String,
    /// The readable part of the consumer's name.
    pub consumer_name: String,
    /// The lease: how long a delivery belongs to its consumer without a renewal, in milliseconds.
    pub lease_ms: u64,
    /// The most events that have not ended; see [`super::Error::Full`].
    pub max_waiting: u64,
    /// The most bytes that the waiting and the failed events of one lane take; see [`super::Error::LaneHeavy`]. A store with
    /// little room allows less.
    pub max_waiting_bytes: u64,
    /// Where the host keeps what it knows of a store elsewhere; `None` for nowhere.
    pub data_dir: Option<PathBuf>,
    /// The certificates for a store that is reached by TLS.
    pub tls: TlsFiles,
    /// Accept events although the store may lose them (G1).
    pub allow_unsafe: bool,
    /// How long the store keeps ended events and idempotency keys.
    pub retention: RetentionLimits,
}

/// PEM files for a connection by TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates that sign that of the store; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate of this host; `None` if the store wants none.
    pub cert: Option<PathBuf>,
    /// The private key of [`Self::cert`].
    pub key: Option<PathBuf>,
}

/// How long a store keeps ended events, idempotency keys and the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionLimits {
    /// The age at which a processed event is deleted, in milliseconds.
    pub processed_ms: u64,
    /// The most processed events that are kept.
    pub processed_max: u64,
    /// The most bytes of processed events that are kept. A store with little room keeps less.
    pub processed_max_bytes: u64,
    /// The age at which a discarded event is deleted, in milliseconds.
    pub discarded_ms: u64,
    /// The age at which an entry of the audit is deleted, in milliseconds.
    pub audit_ms: u64,
    /// The most entries of the audit that are kept.
    pub audit_max: u64,
    /// The window of an idempotency key, in milliseconds.
    pub idempotency_ms: u64,
    /// The most bytes that the idempotency keys of all lanes take; see [`super::Error::KeysFull`]. A store with little room
    /// allows less.
    pub idempotency_max_bytes: u64,
}

impl Default for BrokerOptions {
    /// The defaults of the settings.
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        Self {
            namespace: "es".into(),
            consumer_name: "eventstream".into(),
            lease_ms: 30_000,
            max_waiting: 1_000_000,
            max_waiting_bytes: 1 << 30,
            data_dir: None,
            tls: TlsFiles::default(),
            allow_unsafe: false,
            retention: RetentionLimits {
                processed_ms: 7 * DAY_MS,
                processed_max: 1_000_000,
                processed_max_bytes: 4 << 30,
                discarded_ms: 30 * DAY_MS,
                audit_ms: 90 * DAY_MS,
                audit_max: 100_000,
                idempotency_ms: DAY_MS,
                idempotency_max_bytes: 4 << 30,
            },
        }
    }
}

/// The kind of store and of connection that a URL names. [`Self::of_url`] has the only list of schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A directory on this machine.
    Embedded,
    /// A Redis or Valkey by TCP.
    Redis,
    /// A Redis or Valkey by TLS.
    RedisTls,
    /// A Redis or Valkey by a Unix socket.
    RedisSocket,
}

impl StoreKind {
    /// The kind of a URL.
    ///
    /// # Errors
    /// No store is named. The text says what to write, and repeats the scheme at most, as the URL may hold a password.
    pub fn of_url(url: &str) -> Result<Self, String> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "embedded" if url.starts_with("embedded://") => {
                Err("write the embedded broker as embedded:DIRECTORY, without //, such as embedded:./data".into())
            }
            "embedded" if url == "embedded:" || is_address(&url["embedded:".len()..]) => {
                Err("write the embedded broker as embedded:DIRECTORY".into())
            }
            "embedded" => Ok(Self::Embedded),
            "redis" | "valkey" => Ok(Self::Redis),
            "rediss" | "valkeys" => Ok(Self::RedisTls),
            "redis+unix" | "valkey+unix" | "unix" => Ok(Self::RedisSocket),
            "redis-sentinel" | "redis-cluster" => {
                Err(format!("{scheme}:// is not supported in this version; name a primary with redis://HOST:PORT"))
            }
            _ => Err("write the broker as embedded:DIRECTORY, redis://HOST:PORT, rediss://HOST:PORT for TLS, or \
                      redis+unix:///PATH for a socket"
                .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_names_its_kind() {
        for (urls, kind) in [
            (&["embedded:./data"][..], StoreKind::Embedded),
            (&["redis://h", "valkey://h"], StoreKind::Redis),
            (&["rediss://h", "valkeys://h"], StoreKind::RedisTls),
            (&["redis+unix:///s", "valkey+unix:///s", "unix:///s"], StoreKind::RedisSocket),
        ] {
            for url in urls {
                assert_eq!(StoreKind::of_url(url), Ok(kind), "{url}");
            }
        }
        for url in ["http://:hunter2@h", "redis-sentinel://:hunter2@h", "embedded://hunter2", "embedded:", "hunter2"] {
            let reason = StoreKind::of_url(url).unwrap_err();
            assert!(!reason.contains("hunter2") && reason.contains(":"), "{reason}");
        }
    }
}
