//! What the compiler refused, so that it is not asked again at every start.
//!
//! A refusal counts for the same file, the same engine and version of this program and the same limits: whoever gives the
//! compiler more has it try again. Like compiled code, it counts only if this installation wrote it.

use std::io;

use super::private_dir::{NotPrivate, PrivateDir};
use super::seal::{CODE_BYTES, FileSeal};
use crate::plugin::CompileLimits;
use crate::plugin::component::load_error::LoadError;

/// How many are kept.
const MAX_REFUSALS: usize = 1_000;
/// The longest words that are kept.
const MAX_WORDS_BYTES: usize = 4 * 1024;
/// What the code of a file is for.
const PURPOSE: &[u8] = b"eventstream refused component 1";

/// Why the compiler refused, by the digest of the file.
pub(in crate::plugin) struct CompileRefusals {
    dir: PrivateDir,
    seal: FileSeal,
}

impl CompileRefusals {
    /// Opens what is kept in `root`. Blocks.
    ///
    /// # Errors
    /// The directory is not ours alone.
    pub(in crate::plugin) fn open(root: &PrivateDir, seal: FileSeal) -> Result<Self, NotPrivate> {
        Ok(Self { dir: root.inner("refused")?, seal })
    }

    /// Why a file was refused by a compiler with these limits, if it was. Blocks.
    pub(in crate::plugin) fn get(&self, digest: &str, limits: &CompileLimits) -> Option<LoadError> {
        let name = self.name(digest, limits);
        let content = self.dir.read(&name, (CODE_BYTES + MAX_WORDS_BYTES) as u64).ok()??;
        let (code, words) = content.split_at_checked(CODE_BYTES)?;
        if !self.seal.is_ours(PURPOSE, &name, words, code) {
            return None;
        }
        let file = self.dir.path().join(&name);
        Some(LoadError::Known { words: String::from_utf8_lossy(words).into_owned(), file })
    }

    /// Keeps why a file was refused, if that is the file's fault; it is told at the next start. Blocks.
    pub(in crate::plugin) fn put(&self, digest: &str, limits: &CompileLimits, error: &LoadError) {
        if !is_of_the_file(error) {
            return;
        }
        let name = self.name(digest, limits);
        let words = error.to_string();
        let words = words.get(..words.floor_char_boundary(MAX_WORDS_BYTES)).unwrap_or_default().as_bytes();
        let written =
            self.make_room().and_then(|()| self.dir.write(&name, &[&self.seal.code(PURPOSE, &name, words), words]));
        if let Err(error) = written {
            let path = self.dir.path();
            tracing::warn!(
                "that a file was refused is not kept in {path:?}, so it is tried again after a restart: {error}"
            );
        }
    }

    fn make_room(&self) -> io::Result<()> {
        let mut files = self.dir.files()?;
        files.sort_by_key(|file| file.used);
        for file in files.iter().take((files.len() + 1).saturating_sub(MAX_REFUSALS)) {
            self.dir.remove(&file.name)?;
        }
        Ok(())
    }

    fn name(&self, digest: &str, limits: &CompileLimits) -> String {
        let CompileLimits { memory_bytes, cpu_ms, wall_ms } = limits;
        format!("{}-{memory_bytes}-{cpu_ms}-{wall_ms}", self.seal.name(digest))
    }
}

/// Whether the compiler would say the same again. How long it took tells more of a busy machine than of the file.
fn is_of_the_file(error: &LoadError) -> bool {
    match error {
        LoadError::Compile(_) | LoadError::Componentize(_) => true,
        LoadError::CompilerLimit { key, .. } => *key != "compile_wall_ms",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::sandbox::engine;

    fn open(folder: &std::path::Path) -> CompileRefusals {
        let root = PrivateDir::open(&folder.join("kept")).unwrap();
        let seal = FileSeal::open(&root, &engine::for_compiling().unwrap()).unwrap();
        CompileRefusals::open(&root, seal).unwrap()
    }

    fn told(refusals: &CompileRefusals, digest: &str, limits: &CompileLimits) -> Option<String> {
        refusals.get(digest, limits).map(|error| error.to_string())
    }

    #[test]
    fn what_was_refused_is_told_for_the_same_file_and_limits() {
        let folder = tempfile::tempdir().unwrap();
        let (limits, more) = (CompileLimits::default(), CompileLimits { cpu_ms: 70_000, ..CompileLimits::default() });
        open(folder.path()).put("aa", &limits, &LoadError::Compile("no such opcode".into()));
        let refusals = open(folder.path());
        let words = told(&refusals, "aa", &limits).unwrap();
        assert!(words.contains("no such opcode") && words.contains("refused"), "{words}");
        assert_eq!((told(&refusals, "bb", &limits), told(&refusals, "aa", &more)), (None, None));
        for error in [
            LoadError::NoCompiler("no memory".into()),
            LoadError::CompilerEnded("with signal: 15".into()),
            LoadError::CompilerLimit { what: "took long".into(), key: "compile_wall_ms" },
        ] {
            refusals.put("bb", &limits, &error);
            assert_eq!(told(&refusals, "bb", &limits), None, "{error} is not the file's fault");
        }
    }

    #[test]
    fn what_another_wrote_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let (refusals, limits) = (open(folder.path()), CompileLimits::default());
        refusals.put("aa", &limits, &LoadError::Compile("x".into()));
        let name = refusals.name("aa", &limits);
        let good = refusals.dir.read(&name, 999).unwrap().unwrap();
        refusals.dir.write(&name, &[&good, b"y"]).unwrap();
        assert_eq!(told(&refusals, "aa", &limits), None);
        refusals.dir.write(&refusals.name("bb", &limits), &[&good]).unwrap();
        assert_eq!(told(&refusals, "bb", &limits), None, "that of another file");
        refusals.dir.write(&name, &[&good[..CODE_BYTES - 1]]).unwrap();
        assert_eq!(told(&refusals, "aa", &limits), None);
    }

    #[test]
    fn the_oldest_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let (refusals, limits) = (open(folder.path()), CompileLimits::default());
        for n in 0..MAX_REFUSALS {
            // Without the sync of each, which is not what is tried here.
            std::fs::write(refusals.dir.path().join(n.to_string()), "").unwrap();
        }
        refusals.put("aa", &limits, &LoadError::Compile("x".into()));
        assert_eq!(refusals.dir.files().unwrap().len(), MAX_REFUSALS);
        assert!(told(&refusals, "aa", &limits).is_some());
    }
}
