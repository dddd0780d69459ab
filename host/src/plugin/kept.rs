//! What is kept of plugins from one run to the next, in a directory of ours: native code and earlier versions.

use std::path::Path;

use wasmtime::Engine;

use super::cache::Cache;
use super::history::History;
use super::private_dir::{NotPrivate, PrivateDir};

/// What is kept of plugins from one run to the next.
pub(super) struct Kept {
    /// Native code; `None` if none is to be kept.
    pub(super) cache: Option<Cache>,
    /// Earlier versions.
    pub(super) history: History,
}

impl Kept {
    /// Opens what is kept in a directory, with at most `cache_max_bytes` of native code. A directory that is not ours
    /// alone is not used, with a warning: everything works but is done anew at each start. Blocks.
    pub(super) fn open(dir: &Path, engine: &Engine, cache_max_bytes: u64) -> Option<Self> {
        let open = || {
            let root = PrivateDir::open(dir)?;
            let cache = if cache_max_bytes == 0 { None } else { Some(Cache::open(&root, engine, cache_max_bytes)?) };
            Ok::<_, NotPrivate>(Self { cache, history: History::open(&root)? })
        };
        open()
            .inspect_err(|error| {
                tracing::warn!(
                    "nothing of plugins is kept in plugins.data_dir: each is compiled at every start, and none can be \
                     rolled back: {error}"
                );
            })
            .ok()
    }
}
