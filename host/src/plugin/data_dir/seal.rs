//! The key of this installation, and the authentication codes by which it recognizes the files that it wrote.
//!
//! A code is the HMAC-SHA256 of the file's purpose, name and content. The name holds what the content was made from, the
//! engine, and the version of this program.

use std::hash::{Hash, Hasher};
use std::io;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use wasmtime::Engine;

use super::private_dir::{NotPrivate, PrivateDir};

/// The length of a code.
pub(super) const CODE_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const KEY_NAME: &str = "key";

/// Recognizes what this installation wrote.
#[derive(Clone)]
pub(super) struct FileSeal {
    key: [u8; KEY_BYTES],
    /// The engine and the version of this program: the end of each name.
    made_by: String,
}

impl FileSeal {
    /// Reads the key of this installation in `root`, or makes one. Blocks.
    ///
    /// # Errors
    /// There is no key, and none can be made.
    pub(super) fn open(root: &PrivateDir, engine: &Engine) -> Result<Self, NotPrivate> {
        let key = read_or_make_key(root).map_err(|error| NotPrivate::Unavailable(root.path().join(KEY_NAME), error))?;
        let mut hasher = Sha256Hasher::default();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let engine: String = hasher.0.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { key, made_by: format!("{engine}-{}", env!("CARGO_PKG_VERSION")) })
    }

    /// The name of what this engine and version made from the file with this digest.
    pub(super) fn name(&self, digest: &str) -> String {
        format!("{digest}-{}", self.made_by)
    }

    /// The code of a file.
    pub(super) fn code(&self, purpose: &[u8], name: &str, content: &[u8]) -> [u8; CODE_BYTES] {
        self.hmac(purpose, name, content).finalize().into_bytes().into()
    }

    /// Whether this installation wrote a file with this code.
    pub(super) fn is_ours(&self, purpose: &[u8], name: &str, content: &[u8], code: &[u8]) -> bool {
        self.hmac(purpose, name, content).verify_slice(code).is_ok()
    }

    fn hmac(&self, purpose: &[u8], name: &str, content: &[u8]) -> Hmac<Sha256> {
        // By definition of HMAC, zeros follow a short key.
        let mut key = [0; 64];
        key[..KEY_BYTES].copy_from_slice(&self.key);
        let mut code = Hmac::<Sha256>::new(&key.into());
        for part in [purpose, name.as_bytes()] {
            code.update(&(part.len() as u64).to_le_bytes());
            code.update(part);
        }
        code.update(content);
        code
    }

    #[cfg(test)]
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

/// Reads the key, or makes one if there is none or if other users could have read it.
fn read_or_make_key(root: &PrivateDir) -> io::Result<[u8; KEY_BYTES]> {
    match root.read(KEY_NAME, KEY_BYTES as u64) {
        Ok(Some(key)) => {
            if let Ok(key) = key.try_into() {
                return Ok(key);
            }
            tracing::warn!(
                "the key of compiled code in {:?} is damaged; with a new one all is compiled again",
                root.path()
            );
        }
        Ok(None) => {}
        Err(error) => {
            let path = root.path();
            tracing::warn!(
                "the key of compiled code in {path:?} is not used, with a new one all is compiled again: {error}"
            );
        }
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    root.write(KEY_NAME, &[&key])?;
    Ok(key)
}

/// Feeds a `Hash` into SHA-256. The result is read from the digest, not from `finish`.
#[derive(Default)]
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}
