//! Loading the file of one plugin: read it, compile it, and let it serve, hold it, or note why it failed.
//!
//! Meanwhile a rollback, an approval or a newer file may change the plugin. The entry's generation shows that, and the
//! result of an obsolete load is discarded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::directory::ListedFiles;
use super::directory_scan::DueLoad;
use super::entry::{AddedRights, AttemptedFile, HeldBuild, PluginEntry, StartedLoad};
use super::plugin_registry::PluginRegistry;
use crate::plugin::Plugin;
use crate::plugin::component::file::{self, FileContents};
use crate::plugin::component::load_error::LoadError;
use crate::plugin::component::load_tracks::LoadTicket;
use crate::plugin::data_dir::version_history::{RollbackPin, VersionHistory};
use crate::plugin::settings::PluginSettings;
use crate::regular_file;

/// The result of loading a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadOutcome {
    Serves,
    Held,
    Failed,
    /// The load failed for a reason outside of the file. Try again after this pause.
    RetryAfter(Duration),
    /// A newer load or a rollback came in between, or the same file was attempted before.
    Obsolete,
}

impl LoadOutcome {
    fn failed(retry_after: Option<Duration>) -> Self {
        retry_after.map_or(Self::Failed, Self::RetryAfter)
    }
}

/// A load with what the history says of its file.
struct PinnedLoad {
    load: StartedLoad,
    /// The version that serves in place of the file, if the plugin was rolled back from it.
    pin: Option<RollbackPin>,
    /// A rollback ended, which the history has yet to save.
    is_unpinned: bool,
}

impl PluginRegistry {
    /// Loads the files of a plugin, unless they were attempted before, and updates the routing.
    pub(super) async fn load_file(&self, name: &str, due: DueLoad) -> LoadOutcome {
        let tracks = &self.loader.runtime.tracks;
        let mut ticket = tracks.ticket(name, self.has_served(name), due.listed.size_bytes());
        tracks.enter_memory(&mut ticket).await;
        let read = self.read(name, &due.listed).await;
        let begun = {
            let directory = self.directory.lock().await;
            // While this load waited for its turn, the file may have gone or changed.
            if !directory.is_current(name, &due) {
                return LoadOutcome::Obsolete;
            }
            self.removed.forget(name);
            read.map(|(file, settings)| (self.begin_load(name, &file, &settings, due.was_written), file, settings))
                .map_err(|error| self.fail(self.entries().entry(name.to_owned()).or_default(), name, &error))
        };
        let (begun, file, settings) = match begun {
            Ok((Some(begun), file, settings)) => (begun, file, settings),
            Ok((None, ..)) => return LoadOutcome::Obsolete,
            Err(outcome) => return outcome,
        };
        let cancelled = begun.load.cancelled.clone();
        tokio::select! {
            biased;
            () = cancelled.cancelled() => LoadOutcome::Obsolete,
            outcome = self.finish_load(name, begun, (file, settings), &due.listed.path, &mut ticket) => outcome,
        }
    }

    async fn finish_load(
        &self,
        name: &str,
        begun: PinnedLoad,
        (file, settings): (FileContents, PluginSettings),
        path: &Path,
        ticket: &mut LoadTicket,
    ) -> LoadOutcome {
        let PinnedLoad { load: StartedLoad { generation, .. }, pin, is_unpinned } = begun;
        if is_unpinned {
            self.update_history(name, VersionHistory::save).await;
        }
        let (file, rolled_back_from) = self.replace_by_pin(name, file, pin).await;
        let serving = self.chosen_version(name);
        let compiled = serving.filter(|serving| serving.digest() == file.digest).map(|serving| serving.compiled());
        let (digest, is_the_file) = (file.digest.clone(), rolled_back_from.is_none());
        let loaded = self.loader.load_file(name, file, settings.clone(), compiled, ticket).await;
        let (loaded, bytes) = match loaded {
            Ok((build, bytes)) => (Ok(build), bytes),
            Err(error) => (Err(error), Bytes::new()),
        };
        let added = match &loaded {
            Ok(build) => self.added_rights(name, build, &settings, generation).await,
            Err(_) => AddedRights::default(),
        };
        let outcome = self.end_load(name, generation, loaded, rolled_back_from, (added, path));
        match outcome {
            LoadOutcome::Failed | LoadOutcome::RetryAfter(_) if is_the_file => {
                self.fall_back(name, settings, generation, Some(&digest)).await;
            }
            LoadOutcome::Serves => {
                self.record_serving(name, &digest, is_the_file.then_some(bytes)).await;
                // Routing may have refused it for the types of another plugin.
                self.fall_back(name, settings, generation, None).await;
            }
            _ => {}
        }
        outcome
    }

    /// Whether a version of a plugin serves, or served before the host was started.
    fn has_served(&self, name: &str) -> bool {
        self.serving(name).is_some() || self.history().is_some_and(|history| history.serves(name))
    }

    async fn read(&self, name: &str, listed: &ListedFiles) -> Result<(FileContents, PluginSettings), LoadError> {
        let defaults = self.options().settings.get(name).cloned().unwrap_or_default();
        let limit_bytes = self.loader.max_file_bytes;
        let listed = listed.clone();
        let read = move || {
            let settings = match &listed.settings {
                None => defaults,
                Some(path) => {
                    let text = regular_file::read_to_string(path)?;
                    PluginSettings::parse(&text).map_err(|error| error.in_file(path))?.over(&defaults)
                }
            };
            Ok::<_, LoadError>((file::read(&listed.path, limit_bytes)?, settings))
        };
        self.loader.runtime.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))
    }

    /// Begins the load of a file and ends the load before it; `None` if the same file was attempted before.
    fn begin_load(
        &self,
        name: &str,
        file: &FileContents,
        settings: &PluginSettings,
        was_written: bool,
    ) -> Option<PinnedLoad> {
        let mut entries = self.entries();
        let entry = entries.entry(name.to_owned()).or_default();
        let attempted = AttemptedFile { digest: file.digest.clone(), settings: settings.clone() };
        let load = entry.begin_load(attempted, was_written)?;
        if load.is_put_back
            && let Some(history) = self.history()
        {
            tracing::info!(plugin.id = %name, "the plugin was rolled back from this file, which was put there again: it may serve again");
            history.unpin(name);
        }
        let (pin, is_unpinned) = self.history().map(|history| history.pin_for(name, &file.digest)).unwrap_or_default();
        let is_unpinned = is_unpinned || load.is_put_back;
        if is_unpinned {
            entry.end_rollback();
        }
        Some(PinnedLoad { load, pin, is_unpinned })
    }

    /// Lets a loaded build serve, or holds it for what it adds; notes the failure of one that could not be loaded.
    fn end_load(
        &self,
        name: &str,
        generation: u64,
        loaded: Result<Plugin, LoadError>,
        rolled_back_from: Option<String>,
        (added, path): (AddedRights, &Path),
    ) -> LoadOutcome {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(name) else { return LoadOutcome::Obsolete };
        if !entry.end_load(generation) {
            return LoadOutcome::Obsolete;
        }
        match loaded {
            Ok(plugin) if added.is_empty() => {
                let plugin = Arc::new(plugin);
                entry.serve(plugin.clone(), rolled_back_from);
                self.take_over(&entries, name, &plugin);
                self.update_routing(entries);
                LoadOutcome::Serves
            }
            Ok(plugin) => {
                let digest = plugin.digest().to_owned();
                let (build, file) = (Arc::new(plugin), path.to_owned());
                let held = HeldBuild { build, digest, file, rolled_back_from, added };
                let words = held.describe(name, entry.serving().map(|serving| serving.digest()));
                tracing::warn!(plugin.id = %name, "plugin held: {words}");
                entry.hold(held);
                LoadOutcome::Held
            }
            Err(error) => self.fail(entry, name, &error),
        }
    }

    fn fail(&self, entry: &mut PluginEntry, name: &str, error: &LoadError) -> LoadOutcome {
        let noted = entry.fail(error, self.rescan_pause());
        // A temporary failure is retried every few seconds and logged once.
        if let Some(words) = noted.news {
            tracing::warn!(plugin.id = %name, "plugin not loaded: {words}");
        }
        LoadOutcome::failed(noted.retry_after)
    }
}
