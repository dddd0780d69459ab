//! The API keys of a deployment: stored beside its events, read by every host.

use async_trait::async_trait;

use super::{AuditNote, Error};
use crate::api_key::{ApiKey, KeyId};
use crate::event::Timestamp;

/// The most keys that a store holds, those that ended included (G12).
pub const MAX_STORED_KEYS: usize = 1_000;

/// Keeps the API keys of a deployment. A store holds hashes of secrets and no secret.
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// Reads all keys, unless the store still has this version of them.
    ///
    /// # Errors
    /// The store cannot be read; the caller may go on with what it knows for a while.
    async fn read_keys(&self, known: Option<&str>) -> Result<Option<KeySet>, Error>;

    /// Whether this host, or an earlier process of it, saw a key in this store, though the store may have lost it since.
    fn had_keys(&self) -> bool {
        false
    }

    /// Writes a key and notes that in the audit, in one durable step, if nobody else changed it since it was read.
    ///
    /// # Errors
    /// Those of [`super::EventLog::append`]. If the outcome is unknown, read the keys again.
    async fn write_key(&self, write: KeyWrite, audit: Option<&AuditNote>) -> Result<KeyWriteOutcome, Error>;

    /// Notes when keys were last used. A time only goes forward, and an unknown key is left out. It changes no version.
    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error>;
}

/// All keys of a store at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    /// Names what the store held; another one after each change.
    pub version: String,
    /// The keys, ordered by id.
    pub keys: Vec<StoredKey>,
    /// The keys that this host cannot read: they are damaged, or of a newer version. Nobody may use them here.
    pub unreadable: Vec<String>,
}

impl KeySet {
    /// Whether the store has no key. One that cannot be read counts.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.unreadable.is_empty()
    }
}

/// A key as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The key.
    pub key: ApiKey,
    /// Names what was read; another one after each change of the key.
    pub revision: u64,
    /// When a host last saw it used, to a few minutes.
    pub last_used_at: Option<Timestamp>,
}

/// One key to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWrite {
    /// The key after the change.
    pub key: ApiKey,
    /// The revision that it replaces; `None` for a new key.
    pub replaces: Option<u64>,
    /// Another key, with its revision, that is deleted in the same step.
    pub deletes: Option<(KeyId, u64)>,
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyWriteOutcome {
    /// The key is written.
    Done,
    /// Somebody else changed one of the keys first. Nothing was written: read them again.
    Changed,
    /// The store holds [`MAX_STORED_KEYS`] keys. Nothing was written.
    Full,
}

/// Collects keys as a store holds them.
pub(super) fn collect_keys(
    version: String,
    rows: impl IntoIterator<Item = (String, Option<(u64, ApiKey)>, Option<Timestamp>)>,
) -> KeySet {
    let mut set = KeySet { version, ..KeySet::default() };
    for (id, read, last_used_at) in rows {
        match read {
            Some((revision, key)) if key.id.as_str() == id => set.keys.push(StoredKey { key, revision, last_used_at }),
            _ => set.unreadable.push(id),
        }
    }
    set.keys.sort_by(|one, other| one.key.id.cmp(&other.key.id));
    set.unreadable.sort();
    set
}
