//! Refusals of the compiler, so that a file that cannot be compiled is not compiled again at every start.
//!
//! A refusal holds for the same file, engine, version of this program and limits: with other limits the file is compiled
//! again. Like compiled code, a refusal counts only if this installation wrote it.

use std::io;

use super::private_dir::{NotPrivate, PrivateDir};
use super::seal::{CODE_BYTES, FileSeal};
use crate::plugin::component::compile_child::CompileLimits;
use crate::plugin::component::load_error::LoadError;

/// How many refusals are kept.
const MAX_REFUSALS: usize = 1_000;
/// The longest message that is kept.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;
/// The purpose in the authentication code of a file.
const PURPOSE: &[u8] = b"eventstream refused component 1";

/// Refusals of the compiler, by the digest of the file and the limits.
pub(in crate::plugin) struct CompileRefusals {
    dir: PrivateDir,
    seal: FileSeal,
}

impl CompileRefusals {
    /// Opens the refusals in `root`. Blocks.
    ///
    /// # Errors
    /// The directory is not private.
    pub(super) fn open(root: &PrivateDir, seal: FileSeal) -> Result<Self, NotPrivate> {
        Ok(Self { dir: root.open_inner("refused")?, seal })
    }

    /// The refusal of a file by a compiler with these limits, if there was one. Blocks.
    pub(in crate::plugin) fn get(&self, digest: &str, limits: &CompileLimits) -> Option<LoadError> {
        let name = self.name(digest, limits);
        let content = self.dir.read(&name, (CODE_BYTES + MAX_MESSAGE_BYTES) as u64).ok()??;
        let (code, words) = content.split_at_checked(CODE_BYTES)?;
        if !self.seal.is_ours(PURPOSE, &name, words, code) {
            return None;
        }
        let file = self.dir.path().join(&name);
        Some(LoadError::Known { words: String::from_utf8_lossy(words).into_owned(), file })
    }

    /// Keeps a refusal, if the same file would be refused again. A failure is logged. Blocks.
    pub(in crate::plugin) fn put(&self, digest: &str, limits: &CompileLimits, error: &LoadError) {
        if !is_repeatable(error) {
            return;
        }
        let name = self.name(digest, limits);
        let words = error.to_string();
        let words = words.get(..words.floor_char_boundary(MAX_MESSAGE_BYTES)).unwrap_or_default().as_bytes();
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

/// Whether the compiler would refuse the file again. The wall time depends on how busy the machine is.
fn is_repeatable(error: &LoadError) -> bool {
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

    fn message(refusals: &CompileRefusals, digest: &str, limits: &CompileLimits) -> Option<String> {
        refusals.get(digest, limits).map(|error| error.to_string())
    }

    #[test]
    fn a_refusal_holds_for_the_same_file_and_limits() {
        let folder = tempfile::tempdir().unwrap();
        let (limits, more) = (CompileLimits::default(), CompileLimits { cpu_ms: 70_000, ..CompileLimits::default() });
        open(folder.path()).put("aa", &limits, &LoadError::Compile("no such opcode".into()));
        let refusals = open(folder.path());
        let words = message(&refusals, "aa", &limits).unwrap();
        assert!(words.contains("no such opcode") && words.contains("refused"), "{words}");
        assert_eq!((message(&refusals, "bb", &limits), message(&refusals, "aa", &more)), (None, None));
        for error in [
            LoadError::NoCompiler("no memory".into()),
            LoadError::CompilerEnded("with signal: 15".into()),
            LoadError::CompilerLimit { what: "took long".into(), key: "compile_wall_ms" },
        ] {
            refusals.put("bb", &limits, &error);
            assert_eq!(message(&refusals, "bb", &limits), None, "{error} is not the file's fault");
        }
    }

    #[test]
    fn a_refusal_that_another_installation_wrote_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let (refusals, limits) = (open(folder.path()), CompileLimits::default());
        refusals.put("aa", &limits, &LoadError::Compile("x".into()));
        let name = refusals.name("aa", &limits);
        let good = refusals.dir.read(&name, 999).unwrap().unwrap();
        refusals.dir.write(&name, &[&good, b"y"]).unwrap();
        assert_eq!(message(&refusals, "aa", &limits), None);
        refusals.dir.write(&refusals.name("bb", &limits), &[&good]).unwrap();
        assert_eq!(message(&refusals, "bb", &limits), None, "that of another file");
        refusals.dir.write(&name, &[&good[..CODE_BYTES - 1]]).unwrap();
        assert_eq!(message(&refusals, "aa", &limits), None);
    }

    #[test]
    fn the_oldest_refusals_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let (refusals, limits) = (open(folder.path()), CompileLimits::default());
        for n in 0..MAX_REFUSALS {
            // Written without a sync of each, which would take long.
            std::fs::write(refusals.dir.path().join(n.to_string()), "").unwrap();
        }
        refusals.put("aa", &limits, &LoadError::Compile("x".into()));
        assert_eq!(refusals.dir.files().unwrap().len(), MAX_REFUSALS);
        assert!(message(&refusals, "aa", &limits).is_some());
    }
}
