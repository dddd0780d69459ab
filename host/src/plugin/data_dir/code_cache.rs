//! Native code on disk, so that a component is compiled once and not at every start.
//!
//! Native code is not sandboxed. So a file counts only if it is in a private directory and carries the authentication code
//! of this installation over its name and content. The name holds what it was compiled from, the engine, and the version of
//! this program. Any other file never reaches the engine: the component is compiled again, and the file is replaced.

use std::io;

use parking_lot::Mutex;

use super::private_dir::{NotPrivate, PrivateDir};
use super::seal::{CODE_BYTES, FileSeal};

/// The most code of one component. The code of CPython has 70 MB.
const MAX_CODE_BYTES: u64 = 256 * 1024 * 1024;
/// The purpose in the authentication code of a file.
const PURPOSE: &[u8] = b"eventstream compiled component 1";

/// Native code by the digest of what it was compiled from.
pub(in crate::plugin) struct CodeCache {
    dir: PrivateDir,
    seal: FileSeal,
    max_bytes: u64,
    /// Held while files are removed to make room.
    make_room_lock: Mutex<()>,
}

/// Native code that this installation made, behind its authentication code.
pub(in crate::plugin) struct CachedCode(Vec<u8>);

impl CachedCode {
    /// The code for the engine.
    pub(in crate::plugin) fn native_code(&self) -> &[u8] {
        self.0.get(CODE_BYTES..).unwrap_or_default()
    }
}

impl CodeCache {
    /// Opens the cache in `root`, of at most `max_bytes` in all. Blocks.
    ///
    /// # Errors
    /// The directory is not private.
    pub(super) fn open(root: &PrivateDir, seal: FileSeal, max_bytes: u64) -> Result<Self, NotPrivate> {
        let dir = root.open_inner("compiled")?;
        Ok(Self { dir, seal, max_bytes, make_room_lock: Mutex::default() })
    }

    /// The code for a component with this digest, if this installation wrote it. Blocks.
    pub(in crate::plugin) fn get(&self, digest: &str) -> Option<CachedCode> {
        let name = self.seal.name(digest);
        let content = match self.dir.read(&name, MAX_CODE_BYTES + CODE_BYTES as u64) {
            Ok(content) => content?,
            Err(error) => {
                self.warn_untrusted(&name, &error.to_string());
                return None;
            }
        };
        let compiled = CachedCode(content);
        let written = compiled.0.get(..CODE_BYTES).unwrap_or_default();
        if !self.seal.is_ours(PURPOSE, &name, compiled.native_code(), written) {
            self.warn_untrusted(&name, "it was not written by this installation, or is damaged");
            return None;
        }
        if let Err(error) = self.dir.touch(&name) {
            tracing::debug!("the time at which compiled code was used cannot be recorded: {error}");
        }
        Some(compiled)
    }

    /// Keeps the code for a component with this digest, and makes room for it. Code larger than the cache is not kept.
    /// Blocks.
    pub(in crate::plugin) fn put(&self, digest: &str, code: &[u8]) {
        let name = self.seal.name(digest);
        let size_bytes = (code.len() + CODE_BYTES) as u64;
        if size_bytes > self.max_bytes {
            return;
        }
        let written = self
            .make_room(&name, size_bytes)
            .and_then(|()| self.dir.write(&name, &[&self.seal.code(PURPOSE, &name, code), code]));
        if let Err(error) = written {
            let path = self.dir.path();
            tracing::warn!("compiled code is not kept in {path:?}, so it is compiled again after a restart: {error}");
        }
    }

    /// Removes the least recently used code until there is room.
    fn make_room(&self, name: &str, size_bytes: u64) -> io::Result<()> {
        let _lock = self.make_room_lock.lock();
        let mut files = self.dir.files()?;
        files.retain(|file| file.name != name);
        files.sort_by_key(|file| file.used);
        let mut all_bytes = files.iter().map(|file| file.size_bytes).fold(size_bytes, u64::saturating_add);
        for file in files {
            if all_bytes <= self.max_bytes {
                break;
            }
            self.dir.remove(&file.name)?;
            all_bytes -= file.size_bytes;
        }
        Ok(())
    }

    fn warn_untrusted(&self, name: &str, why: &str) {
        let path = self.dir.path().join(name);
        tracing::warn!("compiled code in {path:?} is not used and compiled again: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::sandbox::engine;

    const A: &str = "aa";
    const B: &str = "bb";

    fn open(folder: &std::path::Path, max_bytes: u64) -> CodeCache {
        let root = PrivateDir::open(&folder.join("kept")).unwrap();
        let seal = FileSeal::open(&root, &engine::for_compiling().unwrap()).unwrap();
        CodeCache::open(&root, seal, max_bytes).unwrap()
    }

    fn code(cache: &CodeCache, digest: &str) -> Option<Vec<u8>> {
        cache.get(digest).map(|code| code.native_code().to_vec())
    }

    #[test]
    fn the_same_installation_gets_the_code_that_it_put() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 1 << 20);
        cache.put(A, b"code");
        assert_eq!(code(&cache, A).unwrap(), b"code");
        assert_eq!(code(&open(folder.path(), 1 << 20), A).unwrap(), b"code");
        assert_eq!(code(&cache, B), None);
    }

    #[test]
    fn changed_code_is_not_returned() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 1 << 20);
        cache.put(A, b"code of a");
        cache.put(B, b"code of b");
        let (of_a, of_b) = (cache.seal.name(A), cache.seal.name(B));
        let good = cache.dir.read(&of_a, 1 << 20).unwrap().unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            cache.dir.write(&of_a, &[&bad]).unwrap();
            assert_eq!(code(&cache, A), None, "byte {at} was changed");
        }
        for length in [0, 1, 31, 32, good.len() - 1] {
            cache.dir.write(&of_a, &[&good[..length]]).unwrap();
            assert_eq!(code(&cache, A), None, "cut to {length} bytes");
        }
        cache.dir.write(&of_a, &[&good, b"x"]).unwrap();
        assert_eq!(code(&cache, A), None, "longer");
        cache.dir.write(&of_a, &[&cache.dir.read(&of_b, 1 << 20).unwrap().unwrap()]).unwrap();
        assert_eq!(code(&cache, A), None, "that of another component");
        cache.dir.write(&of_a, &[&good]).unwrap();
        assert_eq!(code(&cache, A).unwrap(), b"code of a");
    }

    #[test]
    fn code_of_another_installation_is_not_returned() {
        let [ours, theirs] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (cache, other) = (open(ours.path(), 1 << 20), open(theirs.path(), 1 << 20));
        other.put(A, b"code");
        let made = other.dir.read(&other.seal.name(A), 1 << 20).unwrap().unwrap();
        cache.dir.write(&cache.seal.name(A), &[&made]).unwrap();
        assert_eq!(code(&cache, A), None);
    }

    #[test]
    fn a_key_that_others_may_know_is_replaced() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), 1 << 20).put(A, b"code");
        let key = folder.path().join("kept/key");
        let before = std::fs::read(&key).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(code(&open(folder.path(), 1 << 20), A), None);
        let after = std::fs::read(&key).unwrap();
        assert!(after.len() == 32 && after != before);
        std::fs::write(&key, "short").unwrap();
        assert_ne!(open(folder.path(), 1 << 20).seal.key(), after);
    }

    #[test]
    fn the_least_recently_used_code_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let size = 1_000 + CODE_BYTES;
        let cache = open(folder.path(), 2 * size as u64);
        let content = vec![7; 1_000];
        for (digest, age_s) in [("1", 20), ("2", 10)] {
            cache.put(digest, &content);
            // Files that are written in quick succession may have the same time.
            let file =
                std::fs::File::options().write(true).open(cache.dir.path().join(cache.seal.name(digest))).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age_s)).unwrap();
        }
        assert!(cache.get("1").is_some());
        cache.put("3", &content);
        let kept: Vec<_> = ["1", "2", "3"].map(|digest| cache.get(digest).is_some()).into();
        assert_eq!(kept, [true, false, true], "the second is the least recently used");
        cache.put("4", &vec![0; 3 * size]);
        assert!(cache.get("4").is_none() && cache.get("3").is_some(), "code that can never fit evicts nothing");
    }
}
