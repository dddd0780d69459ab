//! The earlier versions of plugins, as the registry reads and records them in the data directory.

use std::io;

use bytes::Bytes;

use super::plugin_registry::PluginRegistry;
use crate::plugin::Plugin;
use crate::plugin::component::file::FileContents;
use crate::plugin::component::load_error::LoadError;
use crate::plugin::data_dir::version_history::{RollbackPin, VersionHistory};
use crate::plugin::settings::PluginSettings;

impl PluginRegistry {
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
