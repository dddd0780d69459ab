//! Earlier versions: recorded in the data directory, read from it, and serving again.
//!
//! They serve again by a rollback, or because the file in the directory cannot serve.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::change_refusal::ChangeRefusal;
use super::plugin_registry::PluginRegistry;
use crate::plugin::Plugin;
use crate::plugin::component::file::FileContents;
use crate::plugin::component::load_error::LoadError;
use crate::plugin::data_dir::version_history::{RollbackPin, VersionHistory};
use crate::plugin::settings::PluginSettings;
use crate::plugin_report::PluginReport;

impl PluginRegistry {
    /// Brings back the version that served before the current one, with the current settings, and returns the report that
    /// follows. The file in the directory is not loaded again until it changes. Dropping the future changes either nothing
    /// or everything.
    ///
    /// # Errors
    /// See [`ChangeRefusal`].
    pub async fn rollback(&self, name: &str) -> Result<PluginReport, ChangeRefusal> {
        let unknown = || ChangeRefusal::Unknown(name.to_owned());
        let _lock = self.rollback_lock.lock().await;
        let settings = match self.entries().get(name) {
            None => return Err(unknown()),
            Some(entry) => entry.attempted().map(|file| file.settings.clone()),
        };
        let settings = settings.or_else(|| self.options().settings.get(name).cloned()).unwrap_or_default();
        let data_dir = self.loader.data_dir.clone().ok_or(ChangeRefusal::NothingKept)?;
        let serving = self.serving(name);
        let serving_digest = serving.as_ref().map(|plugin| plugin.digest());
        let before = data_dir.history.version_before(name, serving_digest);
        let digest = before.ok_or_else(|| ChangeRefusal::NoneBefore(name.to_owned()))?;
        let not_loaded = |error| ChangeRefusal::NotLoaded { digest: digest.clone(), error };
        let plugin = self.load_version(name, &digest, settings).await.map_err(not_loaded)?;

        {
            let mut entries = self.entries();
            self.require_own_types(&entries, name, &plugin, self.options().hold_taken_types)?;
            let entry = entries.get_mut(name).ok_or_else(unknown)?;
            let plugin = Arc::new(plugin);
            let file = entry.roll_back(plugin.clone(), serving_digest);
            tracing::info!(plugin.id = %name, "plugin rolled back from {file} to {digest}");
            data_dir.history.pin(name, RollbackPin { file, serves: digest.clone() });
            self.take_over(&entries, name, &plugin);
            self.update_routing(entries);
        }
        self.save_owners().await;
        self.update_history(name, VersionHistory::save).await;
        self.record_serving(name, &digest, None).await;
        self.status(name).ok_or_else(unknown)
    }

    /// Brings back the version that served last, if none serves: after a start with a file that may not serve. `failed` is
    /// the digest of a file that cannot be loaded.
    pub(super) async fn fall_back(&self, name: &str, settings: PluginSettings, generation: u64, failed: Option<&str>) {
        if self.entries().get(name).is_none_or(|entry| entry.serving().is_some()) {
            return;
        }
        let last = self.history().and_then(|history| history.version_before(name, None));
        let Some(digest) = last.filter(|digest| failed != Some(digest)) else { return };
        self.bring_back(name, &digest, settings, generation).await;
    }

    /// Applies new settings to the version that serves, while the file in the directory may not serve.
    pub(super) async fn renew(&self, name: &str, settings: &PluginSettings, generation: u64) {
        let Some(serving) = self.chosen_version(name).filter(|serving| serving.settings != *settings) else { return };
        self.bring_back(name, serving.digest(), settings.clone(), generation).await;
    }

    /// Lets an earlier version serve while the file may not. The version takes no types from other plugins: if it would, it
    /// handles those of the types that it had which nobody else owns.
    async fn bring_back(&self, name: &str, digest: &str, settings: PluginSettings, generation: u64) {
        let mut version = self.load_version(name, digest, settings.clone()).await;
        if version.as_ref().is_ok_and(|plugin| self.takes_types(name, plugin)) {
            let had = self.chosen_version(name).map(|serving| serving.patterns().to_vec());
            let had = had.or_else(|| self.history().and_then(|history| history.types(name)));
            let types = self.not_owned_by_others(name, had.unwrap_or_default());
            if types.is_empty() {
                return;
            }
            version = self.load_version(name, digest, PluginSettings { types: Some(types), ..settings }).await;
        }
        match version {
            Err(error) => {
                tracing::warn!(plugin.id = %name, "the version {digest}, which served last, cannot serve: {error}")
            }
            Ok(plugin) => {
                let rolled_back_from = self.history().and_then(|history| history.rolled_back_from(name, digest));
                let mut entries = self.entries();
                let entry = entries.get_mut(name);
                if entry.is_some_and(|entry| entry.restore(generation, Arc::new(plugin), rolled_back_from)) {
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

    /// Records the types of a version for the next start, if it serves. The file in the directory, whose bytes are `file`,
    /// is recorded for rollbacks, too.
    pub(super) async fn record_serving(&self, name: &str, digest: &str, file: Option<Bytes>) {
        let Some(serving) = self.serving(name).filter(|serving| serving.digest() == digest) else { return };
        let record = move |history: &VersionHistory, name: &str| match file {
            Some(bytes) => history.record(name, serving.digest(), &bytes, serving.patterns()),
            None => history.record_types(name, serving.patterns()),
        };
        self.update_history(name, record).await;
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
        let Some(RollbackPin { file: rolled_back_from, serves }) = pin else { return (file, None) };
        match self.read_version(name, &serves).await {
            Ok(version) => (version, Some(rolled_back_from)),
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
