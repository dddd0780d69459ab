//! Earlier versions: recorded in the data directory, read from it, and serving again.
//!
//! They serve again by a rollback, or because the file in the directory cannot serve.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::plugin_registry::PluginRegistry;
use crate::plugin::Plugin;
use crate::plugin::component::file::FileContents;
use crate::plugin::component::load_error::LoadError;
use crate::plugin::data_dir::version_history::{RollbackPin, VersionHistory};
use crate::plugin::settings::PluginSettings;
use crate::plugin_report::PluginReport;

/// Why a plugin was not rolled back. The version that served still serves.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// There is no such plugin.
    #[error("there is no plugin {0:?}; GET /plugins lists them")]
    Unknown(String),
    /// No versions are kept at all.
    #[error("no earlier versions are kept: plugins.data_dir is empty or cannot be used; the log of the start says why")]
    NothingKept,
    /// No version served before.
    #[error("no version of {0:?} is kept that served before this one")]
    NoneBefore(String),
    /// The version cannot be read, or cannot be loaded any more.
    #[error("the version {digest} cannot be brought back: {error}")]
    NotLoaded {
        /// The version.
        digest: String,
        /// Why not.
        error: LoadError,
    },
}

impl PluginRegistry {
    /// Brings back the version that served before the current one, with the current settings, and returns the report that
    /// follows. The file in the directory is not loaded again until it changes. Dropping the future changes either nothing
    /// or everything.
    ///
    /// # Errors
    /// See [`RollbackError`].
    pub async fn rollback(&self, name: &str) -> Result<PluginReport, RollbackError> {
        let unknown = || RollbackError::Unknown(name.to_owned());
        let _lock = self.rollback_lock.lock().await;
        let settings = match self.entries().get(name) {
            None => return Err(unknown()),
            Some(entry) => entry.attempted().map(|file| file.settings.clone()),
        };
        let settings = settings.or_else(|| self.options().settings.get(name).cloned()).unwrap_or_default();
        let data_dir = self.loader.data_dir.clone().ok_or(RollbackError::NothingKept)?;
        let serving = self.serving(name);
        let serving_digest = serving.as_ref().map(|plugin| plugin.digest());
        let before = data_dir.history.version_before(name, serving_digest);
        let digest = before.ok_or_else(|| RollbackError::NoneBefore(name.to_owned()))?;
        let not_loaded = |error| RollbackError::NotLoaded { digest: digest.clone(), error };
        let plugin = self.load_version(name, &digest, settings).await.map_err(not_loaded)?;

        {
            let mut entries = self.entries();
            let entry = entries.get_mut(name).ok_or_else(unknown)?;
            let plugin = Arc::new(plugin);
            let held = entry.roll_back(plugin.clone(), serving_digest);
            tracing::info!(plugin.id = %name, "plugin rolled back from {held} to {digest}");
            data_dir.history.pin(name, RollbackPin { held, serves: digest.clone() });
            self.take_over(&entries, name, &plugin);
            self.update_routing(entries);
        }
        self.save_owners().await;
        self.update_history(name, VersionHistory::save).await;
        if let Some(serving) = self.serving(name) {
            self.record_types(name, &serving).await;
        }
        self.status(name).ok_or_else(unknown)
    }

    /// Brings back the version that served last, if the plugin has none: after a start with a file that cannot be loaded.
    pub(super) async fn fall_back(&self, name: &str, settings: PluginSettings, generation: u64) {
        let failed = match self.entries().get(name) {
            Some(entry) if !entry.has_version() => entry.attempted().map(|file| file.digest.clone()),
            _ => return,
        };
        let last = self.history().and_then(|history| history.version_before(name, None));
        let Some(digest) = last.filter(|digest| failed.as_ref() != Some(digest)) else { return };
        self.bring_back(name, &digest, settings, generation).await;
    }

    /// Applies new settings to the version that serves, while the file in the directory may not serve.
    pub(super) async fn renew(&self, name: &str, settings: &PluginSettings, generation: u64) {
        let Some(serving) = self.chosen_version(name).filter(|serving| serving.settings != *settings) else { return };
        self.bring_back(name, serving.digest(), settings.clone(), generation).await;
    }

    /// Lets an earlier version serve while the file stays failed. The version takes no types from other plugins beyond
    /// those that it had.
    async fn bring_back(&self, name: &str, digest: &str, settings: PluginSettings, generation: u64) {
        let mut version = self.load_version(name, digest, settings.clone()).await;
        if version.as_ref().is_ok_and(|plugin| !self.unapproved_types(name, plugin).is_empty()) {
            let had = self.chosen_version(name).map(|serving| serving.patterns().to_vec());
            let had = had.or_else(|| self.history().and_then(|history| history.types(name)));
            let Some(types) = had else { return };
            version = self.load_version(name, digest, PluginSettings { types: Some(types), ..settings }).await;
        }
        match version {
            Err(error) => {
                tracing::warn!(plugin.id = %name, "the version {digest}, which served last, cannot serve: {error}")
            }
            Ok(plugin) => {
                let mut entries = self.entries();
                if entries.get_mut(name).is_some_and(|entry| entry.restore(generation, Arc::new(plugin))) {
                    self.update_routing(entries);
                }
            }
        }
    }

    pub(super) fn history(&self) -> Option<&VersionHistory> {
        self.loader.data_dir.as_ref().map(|data_dir| &data_dir.history)
    }

    /// Writes to the history. A failure is logged; it has no effect before the next start.
    pub(super) async fn update_history(
        &self,
        name: &str,
        write: impl FnOnce(&VersionHistory, &str) -> io::Result<()> + Send + 'static,
    ) {
        let Some(data_dir) = self.loader.data_dir.clone() else { return };
        let plugin = name.to_owned();
        let write = move || write(&data_dir.history, &plugin);
        if let Some(Err(error)) = self.loader.runtime.executor.run_blocking(write).await {
            tracing::warn!(plugin.id = %name, "the versions of the plugin are not kept for the next start: {error}");
        }
    }

    /// Records a version that serves, with its types, for the next start and for rollbacks.
    pub(super) async fn record_version(&self, name: &str, serving: &Plugin, bytes: Bytes) {
        let (digest, types) = (serving.digest().to_owned(), serving.patterns().to_vec());
        self.update_history(name, move |history, name| history.record(name, &digest, &bytes, &types)).await;
    }

    /// Records for the next start which types a plugin handles that serves.
    pub(super) async fn record_types(&self, name: &str, serving: &Plugin) {
        let types = serving.patterns().to_vec();
        self.update_history(name, move |history, name| history.record_types(name, &types)).await;
    }

    pub(super) async fn load_version(
        &self,
        name: &str,
        digest: &str,
        settings: PluginSettings,
    ) -> Result<Plugin, LoadError> {
        let contents = self.read_version(name, digest).await?;
        self.loader.load(name, contents, settings).await
    }

    /// The version that serves in place of a file, with the file's digest if it was rolled back from; else the file.
    pub(super) async fn replace_by_pin(
        &self,
        name: &str,
        file: FileContents,
        pin: Option<RollbackPin>,
    ) -> (FileContents, Option<String>) {
        let Some(RollbackPin { held, serves }) = pin else { return (file, None) };
        match self.read_version(name, &serves).await {
            Ok(version) => (version, Some(held)),
            Err(error) => {
                tracing::warn!(
                    plugin.id = %name,
                    "the version {serves} to which the plugin was rolled back is lost, so the file is loaded: {error}"
                );
                (file, None)
            }
        }
    }

    pub(super) async fn read_version(&self, name: &str, digest: &str) -> io::Result<FileContents> {
        let (data_dir, name, digest) = (self.loader.data_dir.clone(), name.to_owned(), digest.to_owned());
        let read = move || match data_dir {
            Some(data_dir) => data_dir.history.read(&name, &digest),
            None => Err(io::Error::other("nothing is kept")),
        };
        let read = self.loader.runtime.executor.run_blocking(read).await;
        read.unwrap_or_else(|| Err(io::Error::other("the host failed to read it")))
    }
}
