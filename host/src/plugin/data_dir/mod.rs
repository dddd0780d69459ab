//! What is kept of plugins from one run to the next, in a private directory: native code, refusals and earlier versions,
//! and which plugin owns which types.

pub(super) mod pattern_owners;
pub(super) mod version_history;

mod code_cache;
mod compile_refusals;
mod private_dir;
mod seal;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use wasmtime::Engine;

use self::code_cache::CodeCache;
use self::compile_refusals::CompileRefusals;
use self::pattern_owners::{OwnersFile, PatternOwners};
use self::private_dir::{NotPrivate, PrivateDir};
use self::seal::FileSeal;
use self::version_history::VersionHistory;

/// What is kept of plugins from one run to the next.
pub(super) struct PluginDataDir {
    /// Native code; `None` if none is kept.
    pub(super) cache: Option<CodeCache>,
    /// Refusals of the compiler.
    pub(super) refusals: CompileRefusals,
    /// Earlier versions.
    pub(super) history: VersionHistory,
    /// The owners of types.
    pub(super) owners: OwnersFile,
}

impl PluginDataDir {
    /// Opens what is kept in `dir` of the plugins in the directory `plugins`, and reads who owned which types; `None` if
    /// none of these plugins has ever been started. Blocks.
    ///
    /// # Errors
    /// A directory is not private, or cannot be used.
    pub(super) fn open(
        dir: &Path,
        plugins: &Path,
        engine: &Engine,
        cache_max_bytes: u64,
    ) -> Result<(Self, Option<PatternOwners>), NotPrivate> {
        let root = PrivateDir::open(dir)?;
        let seal = FileSeal::open(&root, engine)?;
        let cache = match cache_max_bytes {
            0 => None,
            max_bytes => Some(CodeCache::open(&root, seal.clone(), max_bytes)?),
        };
        let versions =
            versions_dir_name(plugins).map_err(|error| NotPrivate::Unavailable(plugins.to_owned(), error))?;
        let history = VersionHistory::open(root.open_inner(&versions)?)?;
        let (file, owners) = OwnersFile::open(root.open_inner(&versions)?);
        let owners = match owners {
            Ok(Some(owners)) => Some(owners),
            // An earlier release kept the types of each plugin only.
            Ok(None) => (!history.is_empty()).then(|| history.owners()),
            Err(error) => {
                tracing::warn!("which plugin owns which types is read from the versions in {dir:?}: {error}");
                Some(history.owners())
            }
        };
        Ok((Self { cache, refusals: CompileRefusals::open(&root, seal)?, history, owners: file }, owners))
    }
}

/// The name of the directory that keeps the versions of the plugins in `plugins`. Servers may share a data directory while
/// their plugin directories hold different plugins of the same name. So each plugin directory has versions of its own.
pub(super) fn versions_dir_name(plugins: &Path) -> io::Result<String> {
    let digest = Sha256::digest(fs::canonicalize(plugins)?.as_os_str().as_bytes());
    Ok(format!("versions-{}", digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}
