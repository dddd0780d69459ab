//! Plugins that go: because their file went, or because someone asks for it.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::clock;
use crate::plugin::data_dir::version_history::VersionHistory;
use crate::plugin::{PluginRegistry, PluginReport};

/// What was removed, and what was not.
#[derive(Clone, Debug)]
pub struct RemovalReport {
    /// The status from now on.
    pub status: PluginReport,
    /// The file that is gone.
    pub file: PathBuf,
    /// The settings beside it, which stay.
    pub settings: Option<PathBuf>,
}

/// Why a plugin was not removed. It still serves.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No such plugin.
    #[error("there is no plugin {0:?}; GET /plugins lists them")]
    Unknown(String),
    /// The file stays.
    #[error("{file:?} cannot be removed: {error}; whoever puts files there has to remove it")]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl PluginRegistry {
    /// Removes the file of a plugin, so that nothing handles its types from now on. Its settings beside the file, its state and its
    /// earlier versions stay. Attempts under way end on their version. Dropping the future removes it or does not.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, name: &str) -> Result<RemovalReport, RemoveError> {
        let unknown = || RemoveError::Unknown(name.to_owned());
        // A name that is known came from the directory, and so leads nowhere else.
        if !self.entries().contains_key(name) {
            return Err(unknown());
        }
        let file = self.options().dir.join(format!("{name}.wasm"));
        let settings = Some(self.options().dir.join(format!("{name}.toml")));
        let removed = file.clone();
        let work = move || {
            let gone = fs::remove_file(&removed).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            });
            gone.map(|()| settings.filter(|settings| settings.symlink_metadata().is_ok()))
        };
        let done = self.loader.machine.executor.run_blocking(work).await;
        let settings = match done.unwrap_or_else(|| Err(io::Error::other("the host failed to remove it"))) {
            Ok(settings) => settings,
            Err(error) => return Err(RemoveError::File { file, error }),
        };
        self.unload(&[name.to_owned()]).await;
        let status = self.status(name).ok_or_else(unknown)?;
        Ok(RemovalReport { status, file, settings })
    }

    /// Takes plugins whose files went out of the routing.
    pub(in crate::plugin) async fn unload(&self, names: &[String]) {
        {
            let mut entries = self.entries();
            for name in names {
                if entries.remove(name).is_some() {
                    self.removed.add(name, clock::now());
                    tracing::info!(plugin.id = %name, "plugin removed");
                }
            }
            self.swap(entries);
        }
        for name in names {
            self.keep(name, VersionHistory::note_gone).await;
        }
    }
}
