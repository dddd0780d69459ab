//! What is done about a file that is ready: it is read, loaded, and serves; or it is told why not.
//!
//! Whatever happens meanwhile (a rollback, an approval, another look) is noticed by the turn: what was begun before is then
//! not taken.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::PluginEntry;
use super::approval::{AddedRights, HeldBuild};
use super::directory_scan::ListedFiles;
use crate::plugin::component::compile_tracks::CompilePassage;
use crate::plugin::component::load_error::LoadError;
use crate::plugin::component::loader;
use crate::plugin::component::loader::FileContents;
use crate::plugin::data_dir::version_history::{RollbackPin, VersionHistory};
use crate::plugin::settings::PluginSettings;
use crate::plugin::{Plugin, PluginRegistry};

/// A file that is being loaded.
struct StartedLoad {
    turn: u64,
    /// Another one was begun, or the plugin went.
    overtaken: CancellationToken,
    /// What serves in its place, if it was rolled back from.
    pin: Option<RollbackPin>,
    /// That it is not any more is to be written down.
    let_go: bool,
}

/// What came of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) enum LoadOutcome {
    Serves,
    Held,
    Failed,
    /// It failed for what is no fault of the file's, and is to be tried again after this pause.
    MayPass(Duration),
    /// Something else was to serve meanwhile, or the same was tried before.
    Overtaken,
}

impl LoadOutcome {
    fn failed(again_after: Option<Duration>) -> Self {
        again_after.map_or(Self::Failed, Self::MayPass)
    }
}

impl PluginRegistry {
    /// Loads a plugin's files, if they are not what was tried before, and swaps.
    pub(in crate::plugin) async fn take(&self, name: &str, listed: ListedFiles) -> LoadOutcome {
        let lanes = &self.loader.machine.lanes;
        let mut passage = lanes.passage(name, self.is_known(name), listed.size_bytes());
        lanes.enter_room(&mut passage).await;
        let read = self.read(name, &listed).await;
        let begun = {
            let directory = self.directory.lock().await;
            // What waited for its turn may have gone, or be another file by now.
            if !directory.is_current(name, &listed) {
                return LoadOutcome::Overtaken;
            }
            self.removed.forget(name);
            read.map(|(file, settings)| (self.begin(name, &file, &settings, listed.was_written), file, settings))
                .map_err(|error| {
                    let mut entries = self.entries();
                    entries.entry(name.to_owned()).or_default().fail(name, &error, self.rescan())
                })
        };
        let (begun, file, settings) = match begun {
            Ok((Some(begun), file, settings)) => (begun, file, settings),
            Ok((None, ..)) => return LoadOutcome::Overtaken,
            Err(again_after) => return LoadOutcome::failed(again_after),
        };
        let overtaken = begun.overtaken.clone();
        tokio::select! {
            biased;
            () = overtaken.cancelled() => LoadOutcome::Overtaken,
            taken = self.load_begun(name, begun, (file, settings), &listed, &mut passage) => taken,
        }
    }

    async fn load_begun(
        &self,
        name: &str,
        begun: StartedLoad,
        (file, settings): (FileContents, PluginSettings),
        listed: &ListedFiles,
        passage: &mut CompilePassage,
    ) -> LoadOutcome {
        let StartedLoad { turn, pin, let_go, .. } = begun;
        if let_go {
            self.keep(name, VersionHistory::save).await;
        }
        let (file, rolled_back_from) = self.in_place_of(name, file, pin).await;
        let serving = self.entries().get(name).and_then(|entry| entry.serving().cloned());
        let compiled = serving.filter(|serving| serving.digest() == file.digest).map(|serving| serving.compiled());
        let is_the_file = rolled_back_from.is_none();
        let loaded = self.loader.load_file(name, file, settings.clone(), compiled, passage).await;
        let (loaded, bytes) = match loaded {
            Ok((build, bytes)) => (Ok(build), bytes),
            Err(error) => (Err(error), Bytes::new()),
        };
        let new = match &loaded {
            Ok(build) if is_the_file => self.new_capabilities(name, build, &settings, turn).await,
            _ => AddedRights::default(),
        };
        let digest = loaded.as_ref().ok().map(|build| build.digest().to_owned());
        let taken = self.end(name, turn, loaded, rolled_back_from, (new, &listed.path));
        match taken {
            LoadOutcome::Failed | LoadOutcome::MayPass(_) if is_the_file => self.fall_back(name, settings, turn).await,
            LoadOutcome::Serves => {
                let serving = self.serving(name).filter(|serving| Some(serving.digest()) == digest.as_deref());
                match serving {
                    Some(serving) if is_the_file => self.remember(name, &serving, bytes).await,
                    Some(serving) => self.note_types(name, &serving).await,
                    None => {}
                }
            }
            _ => {}
        }
        taken
    }

    /// Whether a version of a plugin serves, or served before the host was started.
    fn is_known(&self, name: &str) -> bool {
        self.serving(name).is_some() || self.history().is_some_and(|history| history.serves(name))
    }

    fn rescan(&self) -> Duration {
        Duration::from_millis(self.options().rescan_ms)
    }

    async fn read(&self, name: &str, listed: &ListedFiles) -> Result<(FileContents, PluginSettings), LoadError> {
        let beneath = self.options().settings.get(name).cloned().unwrap_or_default();
        let limit_bytes = self.loader.max_file_bytes;
        let listed = listed.clone();
        let read = move || {
            let settings = match &listed.settings {
                None => beneath,
                Some(path) => {
                    let text = std::io::read_to_string(loader::open_regular(path)?)?;
                    PluginSettings::parse(&text).map_err(|error| error.in_file(path))?.over(&beneath)
                }
            };
            Ok::<_, LoadError>((loader::read(&listed.path, limit_bytes)?, settings))
        };
        self.loader.machine.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))
    }

    /// Notes that a file is being loaded, and ends the loading of the one before; `None` if it is what was tried before.
    /// What was rolled back from and is written there again is to serve after all.
    fn begin(
        &self,
        name: &str,
        file: &FileContents,
        settings: &PluginSettings,
        was_written: bool,
    ) -> Option<StartedLoad> {
        let tried = Some((file.digest.clone(), settings.clone()));
        let mut entries = self.entries();
        let entry = entries.entry(name.to_owned()).or_default();
        let is_put_back = was_written && entry.rolled_back_from.as_ref() == Some(&file.digest);
        if entry.tried == tried && !is_put_back {
            return None;
        }
        let overtaken = CancellationToken::new();
        entry.tried = tried;
        entry.held = None;
        entry.turn += 1;
        entry.loading = Some((entry.turn, overtaken.clone().drop_guard()));
        if is_put_back && let Some(history) = self.history() {
            tracing::info!(plugin.id = %name, "the file that was rolled back from was put there again: it is to serve");
            history.let_go(name);
        }
        let (pin, let_go) = self.history().map(|history| history.pin_for(name, &file.digest)).unwrap_or_default();
        let let_go = let_go || is_put_back;
        if let_go {
            entry.rolled_back_from = None;
        }
        Some(StartedLoad { turn: entry.turn, overtaken, pin, let_go })
    }

    /// Takes what was loaded, unless something else was to serve meanwhile. `new` is what it may not serve for, and its file.
    fn end(
        &self,
        name: &str,
        turn: u64,
        loaded: Result<Plugin, LoadError>,
        rolled_back_from: Option<String>,
        (new, file): (AddedRights, &Path),
    ) -> LoadOutcome {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(name) else { return LoadOutcome::Overtaken };
        if let Some((_, guard)) = entry.loading.take_if(|(loading, _)| *loading == turn) {
            // What follows from it is not to be ended.
            guard.disarm();
        }
        if entry.turn != turn {
            return LoadOutcome::Overtaken;
        }
        match loaded {
            Ok(plugin) if new.is_nothing() => {
                entry.serve(Arc::new(plugin), rolled_back_from);
                self.swap(entries);
                LoadOutcome::Serves
            }
            Ok(plugin) => {
                entry.hold(name, HeldBuild { plugin: Arc::new(plugin), file: file.to_owned(), new });
                LoadOutcome::Held
            }
            Err(error) => LoadOutcome::failed(entry.fail(name, &error, self.rescan())),
        }
    }
}

impl PluginEntry {
    fn hold(&mut self, name: &str, held: HeldBuild) {
        let words = held.words(self.serving().map(Arc::as_ref));
        tracing::warn!(plugin.id = %name, "plugin held: {words}");
        self.error = None;
        self.held = Some(held);
    }
}
