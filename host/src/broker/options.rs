//! The settings of a store.

use std::path::PathBuf;

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

/// How long a store keeps ended events and idempotency keys.
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
    /// The window of an idempotency key, in milliseconds.
    pub idempotency_ms: u64,
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
                idempotency_ms: DAY_MS,
            },
        }
    }
}
