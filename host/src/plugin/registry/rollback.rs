//! Going back: the version of a plugin that served before serves again, until the file in the directory is another one.

use std::io;
use std::sync::Arc;

use crate::plugin::component::loader::FileContents;
use crate::plugin::data_dir::version_history::{RollbackPin, VersionHistory};
use crate::plugin::settings::PluginSettings;
use crate::plugin::{LoadError, Plugin, PluginRegistry, PluginReport};

/// Why a plugin was not rolled back. What served still serves.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// No such plugin.
    #[error("there is no plugin {0:?}; GET /plugins lists them")]
    Unknown(String),
    /// Nothing is kept at all.
    #[error("no earlier versions are kept: plugins.data_dir is empty or cannot be used; the log of the start says why")]
    NothingKept,
    /// None served before.
    #[error("no version of {0:?} is kept that served before this one")]
    NoneBefore(String),
    /// It cannot be read, or does not load any more.
    #[error("the version {digest} cannot be brought back: {error}")]
    NotLoaded {
        /// The version.
        digest: String,
        /// Why not.
        error: LoadError,
    },
}

impl PluginRegistry {
    /// Brings the version back that served before the one that serves, with the settings of now, and gives the status that
    /// follows. The file in the directory is held from then on: it is loaded when it is another one. Dropping the
    /// future changes nothing, or everything.
    ///
    /// # Errors
    /// See [`RollbackError`].
    pub async fn rollback(&self, name: &str) -> Result<PluginReport, RollbackError> {
        let unknown = || RollbackError::Unknown(name.to_owned());
        let _turn = self.rollbacks.lock().await;
        let settings = match self.entries().get(name) {
            None => return Err(unknown()),
            Some(entry) => entry.tried.as_ref().map(|(_, settings)| settings.clone()),
        };
        let settings = settings.or_else(|| self.options().settings.get(name).cloned()).unwrap_or_default();
        let kept = self.loader.kept.clone().ok_or(RollbackError::NothingKept)?;
        let serving = self.serving(name);
        let before = kept.history.before(name, serving.as_ref().map(|plugin| plugin.digest()));
        let digest = before.ok_or_else(|| RollbackError::NoneBefore(name.to_owned()))?;
        let not_loaded = |error| RollbackError::NotLoaded { digest: digest.clone(), error };
        let contents = self.read_version(name, &digest).await.map_err(|error| not_loaded(LoadError::Read(error)))?;
        let plugin = self.loader.load(name, contents, settings).await.map_err(not_loaded)?;

        {
            let mut entries = self.entries();
            let entry = entries.get_mut(name).ok_or_else(unknown)?;
            // What is being loaded at this moment is held as well.
            entry.turn += 1;
            let held = match (&entry.tried, &serving) {
                (Some((digest, _)), _) => digest.clone(),
                (None, Some(serving)) => serving.digest().to_owned(),
                (None, None) => String::new(),
            };
            tracing::info!(plugin.id = %name, "plugin rolled back from {held} to {digest}");
            kept.history.hold(name, RollbackPin { held: held.clone(), serves: digest.clone() });
            entry.serve(Arc::new(plugin), Some(held));
            self.swap(entries);
        }
        self.keep(name, VersionHistory::save).await;
        if let Some(serving) = self.serving(name) {
            self.note_types(name, &serving).await;
        }
        self.status(name).ok_or_else(unknown)
    }

    /// Has the version serve that served last, if nothing does: after a start with a file that cannot be loaded.
    pub(in crate::plugin) async fn fall_back(&self, name: &str, settings: PluginSettings, turn: u64) {
        if self.entries().get(name).is_none_or(|entry| entry.newest.is_some() || entry.last_good.is_some()) {
            return;
        }
        let failed = self.entries().get(name).and_then(|entry| Some(entry.tried.as_ref()?.0.clone()));
        let last = self.history().and_then(|history| history.before(name, None));
        let Some(digest) = last.filter(|digest| failed.as_ref() != Some(digest)) else { return };
        self.bring_back(name, &digest, settings, turn).await;
    }

    /// Has the version that serves serve with other settings, while the file in the directory may not.
    pub(in crate::plugin) async fn renew(&self, name: &str, settings: &PluginSettings, turn: u64) {
        let serving = self.entries().get(name).and_then(|entry| entry.serving().cloned());
        let Some(serving) = serving.filter(|serving| serving.settings != *settings) else { return };
        self.bring_back(name, serving.digest(), settings.clone(), turn).await;
    }

    /// Has a version serve that served before, without a word on the file in the directory. It takes no types from others
    /// that it did not have.
    async fn bring_back(&self, name: &str, digest: &str, settings: PluginSettings, turn: u64) {
        let mut version = self.load_version(name, digest, settings.clone()).await;
        if version.as_ref().is_ok_and(|plugin| !self.takes(name, plugin).is_empty()) {
            let serving = self.entries().get(name).and_then(|entry| entry.serving().cloned());
            let had = serving.map(|serving| serving.patterns().to_vec());
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
                let Some(entry) = entries.get_mut(name).filter(|entry| entry.turn == turn) else { return };
                let error = entry.error.take();
                entry.serve(Arc::new(plugin), None);
                entry.error = error;
                self.swap(entries);
            }
        }
    }

    async fn load_version(&self, name: &str, digest: &str, settings: PluginSettings) -> Result<Plugin, LoadError> {
        let contents = self.read_version(name, digest).await?;
        self.loader.load(name, contents, settings).await
    }

    /// Notes for the next start what types a plugin handles that serves.
    pub(in crate::plugin) async fn note_types(&self, name: &str, serving: &Plugin) {
        let types = serving.patterns().to_vec();
        self.keep(name, move |history, name| history.note_types(name, &types)).await;
    }

    /// What is to be loaded for a file, and the file's digest if that is another version.
    pub(in crate::plugin) async fn in_place_of(
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

    async fn read_version(&self, name: &str, digest: &str) -> io::Result<FileContents> {
        let (kept, name, digest) = (self.loader.kept.clone(), name.to_owned(), digest.to_owned());
        let read = move || match kept {
            Some(kept) => kept.history.read(&name, &digest),
            None => Err(io::Error::other("nothing is kept")),
        };
        let read = self.loader.machine.executor.run_blocking(read).await;
        read.unwrap_or_else(|| Err(io::Error::other("the host failed to read it")))
    }

    pub(in crate::plugin) fn history(&self) -> Option<&VersionHistory> {
        self.loader.kept.as_ref().map(|kept| &kept.history)
    }

    /// Writes to what is kept. That it cannot be written is told and harms nothing before the next start.
    pub(in crate::plugin) async fn keep(
        &self,
        name: &str,
        write: impl FnOnce(&VersionHistory, &str) -> io::Result<()> + Send + 'static,
    ) {
        let Some(kept) = self.loader.kept.clone() else { return };
        let plugin = name.to_owned();
        let write = move || write(&kept.history, &plugin);
        if let Some(Err(error)) = self.loader.machine.executor.run_blocking(write).await {
            tracing::warn!(plugin.id = %name, "the versions of the plugin are not kept for the next start: {error}");
        }
    }
}
