//! The key of this installation, and the codes that tell what it wrote from what anybody else did.
//!
//! A code is HMAC-SHA256 over what the file is for, its name and its content; the name says what the content was made
//! from, and by which engine and version of this program.

use std::hash::{Hash, Hasher};
use std::io;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use wasmtime::Engine;

use super::private_dir::{NotPrivate, PrivateDir};

/// The length of a code.
pub(in crate::plugin) const CODE_BYTES: usize = 32;
pub(in crate::plugin) const KEY_BYTES: usize = 32;
const KEY_NAME: &str = "key";

/// Tells what this installation wrote.
#[derive(Clone)]
pub(in crate::plugin) struct FileSeal {
    key: [u8; KEY_BYTES],
    /// The end of each name: engine and version.
    made_by: String,
}

impl FileSeal {
    /// Reads the key of this installation in `root`, or makes one. Blocks.
    ///
    /// # Errors
    /// There is no key and none can be made.
    pub(in crate::plugin) fn open(root: &PrivateDir, engine: &Engine) -> Result<Self, NotPrivate> {
        let key = key(root).map_err(|error| NotPrivate::Unavailable(root.path().join(KEY_NAME), error))?;
        let mut hasher = Sha256Hasher::default();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let engine: String = hasher.0.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { key, made_by: format!("{engine}-{}", env!("CARGO_PKG_VERSION")) })
    }

    /// The name of what was made from a file with this digest, here and by this version.
    pub(in crate::plugin) fn name(&self, digest: &str) -> String {
        format!("{digest}-{}", self.made_by)
    }

    /// The code of a file.
    pub(in crate::plugin) fn code(&self, purpose: &[u8], name: &str, content: &[u8]) -> [u8; CODE_BYTES] {
        self.hmac(purpose, name, content).finalize().into_bytes().into()
    }

    /// Whether this installation wrote a file with this code.
    pub(in crate::plugin) fn is_ours(&self, purpose: &[u8], name: &str, content: &[u8], code: &[u8]) -> bool {
        self.hmac(purpose, name, content).verify_slice(code).is_ok()
    }

    fn hmac(&self, purpose: &[u8], name: &str, content: &[u8]) -> Hmac<Sha256> {
        // What follows a short key is zeros by definition.
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
    pub(in crate::plugin) fn key(&self) -> &[u8] {
        &self.key
    }
}

/// The key of this installation; made if there is none, or none that nobody else can have read.
fn key(root: &PrivateDir) -> io::Result<[u8; KEY_BYTES]> {
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

/// Takes what is hashed as it comes; the answer is taken from the digest.
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
