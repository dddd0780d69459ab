//! What is kept of plugins from one run to the next, in a directory of ours: native code, refusals and earlier versions.

pub(super) mod code_cache;
pub(super) mod compile_refusals;
pub(super) mod private_dir;
pub(super) mod removal_record;
pub(super) mod seal;
pub(super) mod version_history;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use wasmtime::Engine;

use self::code_cache::CodeCache;
use self::compile_refusals::CompileRefusals;
use self::private_dir::{NotPrivate, PrivateDir};
use self::seal::FileSeal;
use self::version_history::VersionHistory;
use super::component::loader::PluginLoader;
use super::{Error, RegistryOptions};

/// What is kept of plugins from one run to the next.
pub(super) struct PluginDataDir {
    /// Native code; `None` if none is to be kept.
    pub(super) cache: Option<CodeCache>,
    /// What the compiler refused.
    pub(super) refusals: CompileRefusals,
    /// Earlier versions.
    pub(super) history: VersionHistory,
}

impl PluginDataDir {
    /// Opens what the options ask to keep. A directory that is not ours alone is not used, with a warning: everything works
    /// but is done anew at each start.
    ///
    /// # Errors
    /// [`Error::NothingKept`], if something is asked for that does not work without.
    pub(super) async fn for_loader(options: &RegistryOptions, loader: &PluginLoader) -> Result<Option<Self>, Error> {
        let (engine, max_bytes) = (loader.sandbox.engine.clone(), options.cache_max_bytes);
        let plugins = options.dir.clone();
        let opened = match options.data_dir.clone() {
            None => Err(None),
            Some(dir) => {
                let open = move || Self::open(&dir, &plugins, &engine, max_bytes);
                let failed = || "the host failed to open it".to_owned();
                let opened = loader.machine.executor.run_blocking(open).await;
                opened.map_or_else(|| Err(failed()), |opened| opened.map_err(|error| error.to_string())).map_err(Some)
            }
        };
        match opened {
            Ok(kept) => Ok(Some(kept)),
            Err(error) if options.hold_new_capabilities => {
                Err(Error::NothingKept(error.unwrap_or_else(|| "it is empty".into())))
            }
            Err(error) => {
                if let Some(error) = error {
                    tracing::warn!(
                        "nothing of plugins is kept in plugins.data_dir: each is compiled at every start, and none can \
                         be rolled back: {error}"
                    );
                }
                Ok(None)
            }
        }
    }

    fn open(dir: &Path, plugins: &Path, engine: &Engine, cache_max_bytes: u64) -> Result<Self, NotPrivate> {
        let root = PrivateDir::open(dir)?;
        let seal = FileSeal::open(&root, engine)?;
        let cache = match cache_max_bytes {
            0 => None,
            max_bytes => Some(CodeCache::open(&root, seal.clone(), max_bytes)?),
        };
        let versions = versions_of(plugins).map_err(|error| NotPrivate::Unavailable(plugins.to_owned(), error))?;
        Ok(Self {
            cache,
            refusals: CompileRefusals::open(&root, seal)?,
            history: VersionHistory::open(root.inner(&versions)?)?,
        })
    }
}

/// Where the versions are kept of the plugins in a directory. Two servers may keep things in one place and have plugins of
/// the same names in two directories: neither is to serve what only the other one was given.
pub(super) fn versions_of(plugins: &Path) -> io::Result<String> {
    let digest = Sha256::digest(fs::canonicalize(plugins)?.as_os_str().as_bytes());
    Ok(format!("versions-{}", digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}
