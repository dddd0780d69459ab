//! A key as a store keeps it, and how it changes. No member is a secret: a hash of 190 random bits tells nothing.

use serde::{Deserialize, Serialize};

use super::{KEY_PREFIX, KeyId, KeyRights, KeyToken, TokenHash};
use crate::event::Timestamp;

/// The most secrets of a key at a time: the present one, and earlier ones within their overlap.
pub const MAX_KEY_SECRETS: usize = 4;
/// The longest name, in characters.
const MAX_NAME_CHARS: usize = 64;

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKey {
    /// Its id, which is a part of its text.
    pub id: KeyId,
    /// Whose it is, for people. Two keys may have one name.
    pub name: String,
    /// What it allows.
    pub rights: KeyRights,
    /// Its secrets, the present one first.
    pub secrets: Vec<KeySecret>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The id of the key that made it, or the place where it was made.
    pub created_by: String,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

/// A secret of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeySecret {
    /// The hash of the text with this secret.
    pub sha256: TokenHash,
    /// When it ends, for one that was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A key that the configuration names. It ends when the configuration names it no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredKey {
    /// Its name, which no other configured key has.
    pub name: String,
    /// The hash of its text.
    pub sha256: TokenHash,
    /// What it allows.
    pub rights: KeyRights,
}

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It may be used.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody revoked it.
    Revoked,
}

/// Why a key was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyChangeError {
    /// It was revoked or has expired.
    #[error("the key may not be used any more: make a new one")]
    Ended,
    /// Too many of its earlier secrets are still valid.
    #[error("{} earlier secrets of the key are still valid: wait until one ends, or end them with the overlap 0s", MAX_KEY_SECRETS - 1)]
    TooManySecrets,
}

/// Whether a text can be the name of a key: 1 to 64 letters, digits and `._@-`. A key in its place is none.
pub fn is_key_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    (1..=MAX_NAME_CHARS).contains(&text.len()) && text.chars().all(fits) && !text.starts_with(KEY_PREFIX)
}

impl ApiKey {
    /// A new key with this text.
    pub fn new(token: &KeyToken, name: String, rights: KeyRights, now: Timestamp, created_by: String) -> Self {
        let secrets = vec![KeySecret { sha256: token.hash(), until: None }];
        Self { id: token.id(), name, rights, secrets, created_at: now, created_by, revoked_at: None }
    }

    /// Its name and what it allows, for people. Nothing in it is secret.
    pub fn summary(&self) -> String {
        format!("{}: {}", self.name, self.rights.scopes)
    }

    /// Whether it may be used at this time.
    pub fn state(&self, now: Timestamp) -> KeyState {
        match (self.revoked_at, self.rights.expires_at) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(expires_at)) if expires_at <= now => KeyState::Expired,
            (None, _) => KeyState::Active,
        }
    }

    /// When it ended, if it has.
    pub fn ended_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.revoked_at.or(self.rights.expires_at.filter(|expires_at| *expires_at <= now))
    }

    /// The key with a new text. Its earlier texts stay valid for the overlap; with an overlap of 0 they end now.
    ///
    /// # Errors
    /// See [`KeyChangeError`].
    pub fn rotated(mut self, token: &KeyToken, overlap_ms: u64, now: Timestamp) -> Result<Self, KeyChangeError> {
        if self.state(now) != KeyState::Active {
            return Err(KeyChangeError::Ended);
        }
        let until = now.plus_ms(overlap_ms);
        for secret in &mut self.secrets {
            secret.until = Some(secret.until.map_or(until, |earlier| earlier.min(until)));
        }
        self.secrets.retain(|secret| secret.until.is_none_or(|until| until > now));
        if self.secrets.len() >= MAX_KEY_SECRETS {
            return Err(KeyChangeError::TooManySecrets);
        }
        self.secrets.insert(0, KeySecret { sha256: token.hash(), until: None });
        Ok(self)
    }

    /// The key after its end. A second call changes nothing.
    #[must_use]
    pub fn revoked(mut self, now: Timestamp) -> Self {
        self.revoked_at.get_or_insert(now);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn token(seed: u8) -> KeyToken {
        KeyToken::from_random(&KeyId::from_random([1; 16]), [seed; 32])
    }

    fn key() -> ApiKey {
        ApiKey::new(&token(0), "ada".into(), KeyRights::all(), at(0), "local".into())
    }

    fn untils(key: &ApiKey) -> Vec<Option<i64>> {
        key.secrets.iter().map(|secret| secret.until.map(Timestamp::unix_ms)).collect()
    }

    #[test]
    fn a_rotation_ends_the_earlier_secrets_when_the_overlap_is_over() {
        let once = key().rotated(&token(1), 100, at(10)).unwrap();
        assert_eq!((untils(&once), once.secrets[0].sha256), (vec![None, Some(110)], token(1).hash()));
        // A lost answer is followed by another rotation, and clients still use the first secret.
        let twice = once.clone().rotated(&token(2), 1_000, at(20)).unwrap();
        assert_eq!(untils(&twice), [None, Some(1_020), Some(110)]);
        assert_eq!(untils(&once.clone().rotated(&token(2), 5, at(20)).unwrap()), [None, Some(25), Some(25)]);
        assert_eq!(untils(&once.clone().rotated(&token(2), 0, at(20)).unwrap()), [None]);
        assert_eq!(untils(&once.rotated(&token(2), 50, at(110)).unwrap()), [None, Some(160)]);
        let full = twice.rotated(&token(3), 1_000, at(30)).unwrap();
        assert_eq!(full.clone().rotated(&token(4), 1_000, at(40)), Err(KeyChangeError::TooManySecrets));
        assert!(full.clone().rotated(&token(4), 0, at(40)).is_ok() && full.rotated(&token(4), 50, at(110)).is_ok());
    }

    #[test]
    fn a_key_that_ended_stays_ended() {
        let revoked = key().revoked(at(5));
        assert_eq!((revoked.state(at(0)), revoked.ended_at(at(9))), (KeyState::Revoked, Some(at(5))));
        assert_eq!(revoked.clone().revoked(at(6)), revoked);
        assert_eq!(revoked.rotated(&token(1), 0, at(9)), Err(KeyChangeError::Ended));
        let mut short = key();
        short.rights.expires_at = Some(at(10));
        assert_eq!((short.state(at(9)), short.state(at(10))), (KeyState::Active, KeyState::Expired));
        assert_eq!((short.ended_at(at(9)), short.ended_at(at(10))), (None, Some(at(10))));
        assert_eq!(short.rotated(&token(1), 0, at(10)), Err(KeyChangeError::Ended));
    }

    #[test]
    fn a_key_is_stored_without_its_secret() {
        let text = serde_json::to_string(&key()).unwrap();
        assert!(!text.contains(token(0).expose()) && !text.contains(&token(0).expose()[15..]), "{text}");
        assert_eq!(serde_json::from_str::<ApiKey>(&text).unwrap(), key());
        for name in ["", "a b", "é", &"x".repeat(65), token(0).expose()] {
            assert!(!is_key_name(name), "{name}");
        }
        assert!(is_key_name("ada@laptop-1.example") && is_key_name(&"x".repeat(64)));
    }
}
