//! The keys that this host knows: a copy of those in the store, and those of the configuration.
//!
//! A request is checked against the copy and asks no store. A task reads the store once a second, so a key that is revoked on
//! one host ends on every other within two seconds. While the store cannot be read, the copy serves for five minutes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::auth_failures::{AuthFailure, AuthFailures};
use super::failed_tries::FailedTries;
use super::rate_gauge::RateGauge;
use crate::api_key::{ConfiguredKey, InvalidToken, KeyId, KeyRights, KeyState, TokenHash};
use crate::broker::{ConsumerDirectory, Error, KeySet, KeyStore, StoredKey};
use crate::event::Timestamp;

/// How often the store is asked whether keys have changed.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How long the copy serves while the store cannot be read.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// How often last uses are written.
const NOTE_EVERY_READS: u32 = 30;
/// A last use is written if it is so much later than the one in the store.
const USE_STEP_MS: i64 = 5 * 60 * 1_000;

/// The keys that this host knows.
pub struct KeyRing {
    pub(super) store: Arc<dyn KeyStore>,
    /// The hosts that share the rates.
    consumers: Arc<dyn ConsumerDirectory>,
    pub(super) configured: Vec<ConfiguredKey>,
    known: ArcSwap<KnownKeys>,
    /// Only one task reads the store at a time, so that no older copy replaces a newer one.
    reading: Semaphore,
    begun: Instant,
    /// When the last successful read began, in milliseconds after `begun`.
    read_ms: AtomicU64,
    are_needed: AtomicBool,
    pub(super) tries: FailedTries,
    pub(super) failures: AuthFailures,
}

/// The copy of the keys.
#[derive(Default)]
struct KnownKeys {
    /// `None` before the first read.
    version: Option<String>,
    by_hash: HashMap<TokenHash, KnownSecret>,
    /// The keys of the store, which keep their gauges when the store changes.
    stored: HashMap<KeyId, Arc<KnownKey>>,
}

struct KnownSecret {
    sha256: TokenHash,
    key: Arc<KnownKey>,
    until: Option<Timestamp>,
}

/// A key, and what was used of it here.
#[derive(Debug)]
pub(super) struct KnownKey {
    /// `None` for a key of the configuration.
    pub(super) id: Option<KeyId>,
    pub(super) name: String,
    pub(super) rights: KeyRights,
    revoked_at: Option<Timestamp>,
    pub(super) gauge: Option<Arc<RateGauge>>,
    /// The last use here, and the one in the store, in Unix milliseconds; 0 for none.
    used_ms: AtomicI64,
    noted_ms: AtomicI64,
}

/// Why a key is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefusedKey {
    /// The text is no key.
    #[error("{0}")]
    Invalid(#[from] InvalidToken),
    /// There is no such key.
    #[error("the key is not known here: it belongs to another deployment, or is no longer listed")]
    Unknown,
    /// The key was revoked or has expired.
    #[error("{key} {}{at}: ask for a new one", if *.state == KeyState::Revoked { "was revoked at " } else { "expired at " })]
    Ended { key: String, state: KeyState, at: Timestamp },
    /// The key has a new secret.
    #[error("{key} was rotated, and this secret ended at {at}: use the new one")]
    Replaced { key: String, at: Timestamp },
    /// The keys were not read for too long.
    #[error("the keys could not be read from the store for five minutes")]
    NotRead,
}

impl RefusedKey {
    /// The reason for the metric.
    pub(super) fn failure(&self) -> AuthFailure {
        match self {
            Self::Invalid(_) => AuthFailure::Malformed,
            Self::Unknown => AuthFailure::Unknown,
            Self::Ended { state: KeyState::Revoked, .. } => AuthFailure::Revoked,
            Self::Ended { .. } => AuthFailure::Expired,
            Self::Replaced { .. } => AuthFailure::Replaced,
            Self::NotRead => AuthFailure::Unread,
        }
    }
}

impl KeyRing {
    /// A ring that knows no key of the store yet. With `is_exposed` a key is needed even while there is none.
    pub fn new(
        store: Arc<dyn KeyStore>,
        consumers: Arc<dyn ConsumerDirectory>,
        configured: Vec<ConfiguredKey>,
        is_exposed: bool,
    ) -> Self {
        let known = KnownKeys::new(&KeySet::default(), &configured, &KnownKeys::default());
        Self {
            store,
            consumers,
            known: ArcSwap::from_pointee(KnownKeys { version: None, ..known }),
            reading: Semaphore::new(1),
            begun: Instant::now(),
            read_ms: AtomicU64::new(0),
            are_needed: AtomicBool::new(is_exposed || !configured.is_empty()),
            configured,
            tries: FailedTries::default(),
            failures: AuthFailures::default(),
        }
    }

    /// Whether a client needs a key. Once there was one it stays so: a store that lost its keys opens nothing.
    pub fn are_needed(&self) -> bool {
        self.are_needed.load(Ordering::Relaxed)
    }

    /// Whether any key is known.
    pub fn has_keys(&self) -> bool {
        let known = self.known.load();
        !known.stored.is_empty() || !self.configured.is_empty()
    }

    /// Reads the store, unless it has not changed.
    ///
    /// # Errors
    /// The store cannot be read; the copy stays as it was.
    pub async fn refresh(&self) -> Result<(), Error> {
        let _turn = self.reading.acquire().await.map_err(|_| Error::refused("the keys are no longer read"))?;
        let begun = self.begun.elapsed();
        let known = self.known.load_full();
        if let Some(set) = self.store.read_keys(known.version.as_deref()).await? {
            if !set.unreadable.is_empty() {
                let ids = set.unreadable.join(", ");
                tracing::error!(
                    "keys in the store cannot be read and are refused: {ids}; is a host of a newer version beside this one?"
                );
            }
            if !set.is_empty() {
                self.are_needed.store(true, Ordering::Relaxed);
            } else if !known.stored.is_empty() || self.store.had_keys() {
                self.are_needed.store(true, Ordering::Relaxed);
                tracing::error!(
                    "the store has lost its keys: clients are refused until `eventstream key new --broker URL` makes one"
                );
            }
            self.known.store(Arc::new(KnownKeys::new(&set, &self.configured, &known)));
        }
        self.read_ms.store(u64::try_from(begun.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    /// Keeps the copy up to date until `stop`.
    pub async fn keep_current(&self, stop: CancellationToken) {
        let (mut reads, mut fails) = (0_u32, false);
        while stop.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_some() {
            match self.refresh().await {
                Ok(()) => fails = false,
                Err(error) if !fails => {
                    fails = true;
                    tracing::warn!("the keys cannot be read: {error}; those that are known serve for five minutes");
                }
                Err(_) => {}
            }
            reads = reads.wrapping_add(1);
            if reads.is_multiple_of(NOTE_EVERY_READS) && !fails {
                self.note_uses().await;
            }
        }
    }

    /// Finds the key of a text that a client sent.
    pub(super) fn find(&self, text: &[u8], now: Timestamp) -> Result<Arc<KnownKey>, RefusedKey> {
        let hash = TokenHash::of_text(text)?;
        let known = self.known.load();
        let secret = known.by_hash.get(&hash).filter(|secret| secret.sha256.matches(&hash));
        let KnownSecret { key, until, .. } = secret.ok_or(RefusedKey::Unknown)?;
        if let Some((state, at)) = key.end(now) {
            return Err(RefusedKey::Ended { key: key.describe(), state, at });
        }
        if let Some(at) = until.filter(|until| *until <= now) {
            return Err(RefusedKey::Replaced { key: key.describe(), at });
        }
        let read = Duration::from_millis(self.read_ms.load(Ordering::Relaxed));
        if key.id.is_some() && self.begun.elapsed().saturating_sub(read) > MAX_AGE {
            return Err(RefusedKey::NotRead);
        }
        key.note_use(now);
        Ok(key.clone())
    }

    /// The hosts that share the rates, as of the last heartbeat.
    pub(super) fn hosts(&self) -> u64 {
        self.consumers.live_consumers()
    }

    /// When a key was last used here, as far as the store does not know it yet.
    pub(super) fn last_use_here(&self, id: &KeyId) -> Option<Timestamp> {
        let used_ms = self.known.load().stored.get(id)?.used_ms.load(Ordering::Relaxed);
        (used_ms > 0).then(|| Timestamp::from_unix_ms(used_ms))
    }

    /// Writes last uses. A failure loses nothing: the next round tries again.
    async fn note_uses(&self) {
        let known = self.known.load_full();
        let new_use = |(id, key): (&KeyId, &Arc<KnownKey>)| {
            let used_ms = key.used_ms.load(Ordering::Relaxed);
            let is_new = used_ms >= key.noted_ms.load(Ordering::Relaxed) + USE_STEP_MS;
            is_new.then(|| (id.clone(), Timestamp::from_unix_ms(used_ms)))
        };
        let uses: Vec<_> = known.stored.iter().filter_map(new_use).collect();
        if !uses.is_empty() && self.store.note_key_uses(uses.clone()).await.is_ok() {
            for (id, at) in uses {
                if let Some(key) = known.stored.get(&id) {
                    key.noted_ms.store(at.unix_ms(), Ordering::Relaxed);
                }
            }
        }
    }
}

impl KnownKeys {
    /// The copy of a set. Gauges of `before` go on, and a revocation that was seen once stays, whatever the store has now.
    fn new(set: &KeySet, configured: &[ConfiguredKey], before: &Self) -> Self {
        let mut all = Self { version: Some(set.version.clone()), ..Self::default() };
        for ConfiguredKey { name, sha256, rights } in configured {
            let known = before.by_hash.get(sha256).filter(|secret| secret.key.id.is_none());
            let key = known.map_or_else(|| Arc::new(KnownKey::configured(name, rights)), |secret| secret.key.clone());
            all.by_hash.insert(*sha256, KnownSecret { sha256: *sha256, key, until: None });
        }
        let configured: HashSet<TokenHash> = all.by_hash.keys().copied().collect();
        for stored in &set.keys {
            let id = &stored.key.id;
            let known = Arc::new(KnownKey::stored(stored, before.stored.get(id).map(|known| &**known)));
            for secret in stored.key.secrets.iter().filter(|secret| !configured.contains(&secret.sha256)) {
                let entry = KnownSecret { sha256: secret.sha256, key: known.clone(), until: secret.until };
                all.by_hash.insert(secret.sha256, entry);
            }
            all.stored.insert(id.clone(), known);
        }
        all
    }
}

impl KnownKey {
    fn configured(name: &str, rights: &KeyRights) -> Self {
        Self {
            id: None,
            name: name.to_owned(),
            rights: rights.clone(),
            revoked_at: None,
            gauge: rights.rate.map(|rate| Arc::new(RateGauge::new(rate, Instant::now()))),
            used_ms: AtomicI64::new(0),
            noted_ms: AtomicI64::new(0),
        }
    }

    fn stored(stored: &StoredKey, before: Option<&Self>) -> Self {
        let StoredKey { key, last_used_at, .. } = stored;
        let noted_ms = last_used_at.map_or(0, Timestamp::unix_ms);
        let new = Self::configured(&key.name, &key.rights);
        let gauge = before.and_then(|before| before.gauge.as_ref());
        let gauge = gauge.filter(|gauge| Some(gauge.rate()) == key.rights.rate);
        let used_ms = before.map_or(0, |before| before.used_ms.load(Ordering::Relaxed)).max(noted_ms);
        Self {
            id: Some(key.id.clone()),
            revoked_at: key.revoked_at.or(before.and_then(|before| before.revoked_at)),
            used_ms: AtomicI64::new(used_ms),
            noted_ms: AtomicI64::new(noted_ms),
            gauge: gauge.cloned().or(new.gauge),
            ..new
        }
    }

    fn end(&self, now: Timestamp) -> Option<(KeyState, Timestamp)> {
        let expired = || self.rights.expires_at.filter(|at| *at <= now).map(|at| (KeyState::Expired, at));
        self.revoked_at.map(|at| (KeyState::Revoked, at)).or_else(expired)
    }

    /// The name of the key, and its id if it has one.
    pub(super) fn describe(&self) -> String {
        match &self.id {
            Some(id) => format!("the key {} ({id})", self.name),
            None => format!("the key {} of the configuration", self.name),
        }
    }

    /// Who made what this key makes.
    pub(super) fn maker(&self) -> String {
        self.id.as_ref().map_or_else(|| format!("configuration:{}", self.name), ToString::to_string)
    }

    fn note_use(&self, now: Timestamp) {
        // Written once a second at most, so that the cores do not take the line from each other at each request.
        if now.unix_ms() - self.used_ms.load(Ordering::Relaxed) >= 1_000 {
            self.used_ms.store(now.unix_ms(), Ordering::Relaxed);
        }
    }
}
