//! The text of a key: `es1_`, ten characters of id, `_`, 32 characters of secret and six of checksum.
//!
//! The checksum tells a typing error from a key that does not exist, and scanners for leaked secrets find the form. The
//! secret has 190 random bits, so one round of SHA-256 hides it: nobody can try them all.

use std::fmt::{self, Debug, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::secret::SecretText;

/// What every key begins with.
pub const KEY_PREFIX: &str = "es1_";
const ID_CHARS: usize = 10;
const SECRET_CHARS: usize = 32;
const CHECK_CHARS: usize = 6;
/// The bytes of a key before its checksum, and all of them.
const CHECKED_CHARS: usize = KEY_PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS;
const TOKEN_CHARS: usize = CHECKED_CHARS + CHECK_CHARS;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The id of a key: ten letters and digits. It is no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

/// The whole text of a key, as a client sends it. Its `Debug` hides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyToken(SecretText);

/// The SHA-256 of the whole text of a key. As text it is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

/// Why a text is no key. The message never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It has another form.
    #[error("a key is es1_ with 49 more characters, as eventstream key new prints it")]
    Form,
    /// The checksum does not fit.
    #[error("the key has a typing error, or a part of it is missing: copy it again")]
    Checksum,
}

impl KeyId {
    /// The id made of these random bytes.
    pub fn from_random(random: [u8; 16]) -> Self {
        let mut id = String::with_capacity(ID_CHARS);
        push_digits(&mut id, u128::from_le_bytes(random), ID_CHARS);
        Self(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl KeyToken {
    /// A new key with this id and a secret made of these random bytes.
    pub fn from_random(id: &KeyId, random: [u8; SECRET_CHARS]) -> Self {
        let mut text = format!("{KEY_PREFIX}{}_", id.0);
        // Eight bytes for eight characters: the remainders are even to one in ten thousand.
        for part in random.chunks_exact(8) {
            let number = part.iter().fold(0, |number, byte| (number << 8) | u128::from(*byte));
            push_digits(&mut text, number, 8);
        }
        let check = crc32fast::hash(text.as_bytes());
        push_digits(&mut text, check.into(), CHECK_CHARS);
        Self(text.into())
    }

    /// The id in the text.
    pub fn id(&self) -> KeyId {
        KeyId(self.expose()[KEY_PREFIX.len()..KEY_PREFIX.len() + ID_CHARS].to_owned())
    }

    /// The text. Do not log it or put it into a message.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// What a store keeps of this key.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.expose()).into())
    }
}

impl TokenHash {
    /// The hash of a key in its text. It copies nothing, since every request needs it.
    ///
    /// # Errors
    /// See [`InvalidToken`].
    pub fn of_text(text: &[u8]) -> Result<Self, InvalidToken> {
        check_form(text)?;
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Whether two hashes are equal. Takes as long for any two, so that the time tells nothing.
    pub fn matches(&self, other: &Self) -> bool {
        let differences = self.0.iter().zip(&other.0).fold(0, |all, (one, other)| all | (one ^ other));
        std::hint::black_box(differences) == 0
    }
}

fn push_digits(text: &mut String, mut number: u128, chars: usize) {
    for _ in 0..chars {
        text.push(char::from(DIGITS[(number % 62) as usize]));
        number /= 62;
    }
}

fn check_form(text: &[u8]) -> Result<(), InvalidToken> {
    let is_word = |part: &[u8]| part.iter().all(u8::is_ascii_alphanumeric);
    let after_prefix = text.strip_prefix(KEY_PREFIX.as_bytes()).ok_or(InvalidToken::Form)?;
    match after_prefix.split_at_checked(ID_CHARS) {
        Some((id, [b'_', rest @ ..])) if is_word(id) && is_word(rest) => {}
        _ => return Err(InvalidToken::Form),
    }
    if text.len() != TOKEN_CHARS {
        return Err(InvalidToken::Checksum);
    }
    let (checked, check) = text.split_at(CHECKED_CHARS);
    let mut expected = crc32fast::hash(checked);
    for digit in check {
        if DIGITS[(expected % 62) as usize] != *digit {
            return Err(InvalidToken::Checksum);
        }
        expected /= 62;
    }
    Ok(())
}

impl FromStr for KeyToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_form(text.as_bytes())?;
        Ok(Self(text.into()))
    }
}

impl FromStr for KeyId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_id = text.len() == ID_CHARS && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_id.then(|| Self(text.to_owned())).ok_or("the id of a key is ten letters and digits")
    }
}

impl TryFrom<String> for KeyId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Debug for TokenHash {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({:02x}…)", self.0[0])
    }
}

impl FromStr for TokenHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a SHA-256 is 64 hexadecimal digits";
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong);
        }
        let mut hash = [0; 32];
        for (place, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).map_err(|_| wrong)?;
        }
        Ok(Self(hash))
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(seed: u8) -> KeyToken {
        let random: Vec<u8> = (0..32).map(|n| n * 7 + seed).collect();
        KeyToken::from_random(&KeyId::from_random([seed; 16]), random.try_into().unwrap())
    }

    #[test]
    fn a_key_has_the_form_that_scanners_look_for() {
        for seed in 0..=31 {
            let token = token(seed);
            let text = token.expose();
            let [prefix, id, secret] = text.split('_').collect::<Vec<_>>().try_into().unwrap();
            assert_eq!((prefix, id.len(), secret.len()), ("es1", 10, 38), "{text}");
            assert_eq!((text.parse(), token.id().as_str()), (Ok(token.clone()), id));
            assert_eq!(TokenHash::of_text(text.as_bytes()), Ok(token.hash()));
            assert!(!format!("{token:?}").contains(secret));
        }
        assert_ne!(token(1).hash(), token(2).hash());
    }

    #[test]
    fn every_typing_error_is_noticed() {
        let good = token(3).expose().to_owned();
        for place in KEY_PREFIX.len()..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[place] = if bad[place] == b'x' { b'y' } else { b'x' };
            assert!(TokenHash::of_text(&bad).is_err(), "{place}");
        }
        for (bad, error) in [
            (&good[..52], InvalidToken::Checksum),
            (&format!("{good}x"), InvalidToken::Checksum),
            ("es1_abc", InvalidToken::Form),
            ("", InvalidToken::Form),
            (&good.replace("es1", "es2"), InvalidToken::Form),
            (&good.replace('_', "-"), InvalidToken::Form),
            ("es1_é23456789_x", InvalidToken::Form),
        ] {
            assert_eq!(TokenHash::of_text(bad.as_bytes()), Err(error), "{bad}");
            assert_eq!(bad.parse::<KeyToken>(), Err(error));
        }
    }

    #[test]
    fn the_hash_is_that_of_the_usual_tools() {
        // printf %s es1_… | sha256sum
        let hash = TokenHash(Sha256::digest("abc").into());
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((hash.to_string().as_str(), text.parse::<TokenHash>().unwrap()), (text, hash));
        assert!(hash.matches(&hash) && !hash.matches(&TokenHash([0; 32])));
        for bad in ["", "ba78", &text.replace('b', "g"), &"é".repeat(32)] {
            assert!(bad.parse::<TokenHash>().is_err(), "{bad}");
        }
    }
}
