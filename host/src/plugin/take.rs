//! What is done about a file that is ready: it is read, loaded, and serves; or it is told why not.
//!
//! Whatever happens meanwhile (a rollback, an approval, another look) is noticed by the turn: what was begun before is then
//! not taken.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::approval::{Held, New};
use super::directory::Listed;
use super::history::{History, Pin};
use super::load::{self, Contents, LoadError};
use super::registry::Entry;
use super::settings::Settings;
use super::{Plugin, Registry};

/// A file that is being loaded.
struct Begun {
    turn: u64,
    /// Another one was begun, or the plugin went.
    overtaken: CancellationToken,
    /// What serves in its place, if it was rolled back from.
    pin: Option<Pin>,
    /// That it is not any more is to be written down.
    let_go: bool,
}

/// What came of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Serves,
    Held,
    Failed,
    /// It failed for what is no fault of the file's, and is to be tried again after this pause.
    MayPass(Duration),
    /// Something else was to serve meanwhile, or the same was tried before.
    Overtaken,
}

impl Taken {
    fn failed(again_after: Option<Duration>) -> Self {
        again_after.map_or(Self::Failed, Self::MayPass)
    }
}

impl Registry {
    /// Loads a plugin's files, if they are not what was tried before, and swaps.
    pub(super) async fn take(&self, name: &str, listed: Listed) -> Taken {
        let read = self.read(name, &listed).await;
        let begun = {
            let directory = self.directory.lock().await;
            // What waited for its turn may have gone, or be another file by now.
            if !directory.is_current(name, &listed) {
                return Taken::Overtaken;
            }
            self.removed.forget(name);
            read.map(|(file, settings)| (self.begin(name, &file, &settings), file, settings)).map_err(|error| {
                let mut entries = self.entries();
                entries.entry(name.to_owned()).or_default().fail(name, &error, self.rescan())
            })
        };
        let (begun, file, settings) = match begun {
            Ok((Some(begun), file, settings)) => (begun, file, settings),
            Ok((None, ..)) => return Taken::Overtaken,
            Err(again_after) => return Taken::failed(again_after),
        };
        let overtaken = begun.overtaken.clone();
        tokio::select! {
            biased;
            () = overtaken.cancelled() => Taken::Overtaken,
            taken = self.load_begun(name, begun, file, settings) => taken,
        }
    }

    async fn load_begun(&self, name: &str, begun: Begun, file: Contents, settings: Settings) -> Taken {
        let Begun { turn, pin, let_go, .. } = begun;
        if let_go {
            self.keep(name, History::save).await;
        }
        let (file, rolled_back_from) = self.in_place_of(name, file, pin).await;
        let version = file.clone();
        let serving = self.entries().get(name).and_then(|entry| entry.serving().cloned());
        let compiled = serving.filter(|serving| serving.digest() == file.digest).map(|serving| serving.compiled());
        let loaded = self.loader.load_compiled(name, file, settings.clone(), compiled).await;
        let new = match &loaded {
            Ok(build) if rolled_back_from.is_none() => self.new_capabilities(name, build, &settings, turn).await,
            _ => New::default(),
        };
        let is_the_file = rolled_back_from.is_none();
        let taken = self.end(name, turn, loaded, rolled_back_from, (new, &version));
        match taken {
            Taken::Failed | Taken::MayPass(_) if is_the_file => self.fall_back(name, settings, turn).await,
            Taken::Serves if is_the_file && self.serving(name).is_some_and(|it| it.digest() == version.digest) => {
                self.keep(name, move |history, name| history.remember(name, &version.digest, &version.bytes)).await;
            }
            _ => {}
        }
        taken
    }

    fn rescan(&self) -> Duration {
        Duration::from_millis(self.options().rescan_ms)
    }

    async fn read(&self, name: &str, listed: &Listed) -> Result<(Contents, Settings), LoadError> {
        let beneath = self.options().settings.get(name).cloned().unwrap_or_default();
        let limit_bytes = self.loader.max_file_bytes;
        let listed = listed.clone();
        let read = move || {
            let settings = match &listed.settings {
                None => beneath,
                Some(path) => Settings::parse(&std::io::read_to_string(load::open_regular(path)?)?)?.over(&beneath),
            };
            Ok::<_, LoadError>((load::read(load::open_regular(&listed.path)?, limit_bytes)?, settings))
        };
        self.loader.machine.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))
    }

    /// Notes that a file is being loaded, and ends the loading of the one before; `None` if it is what was tried before.
    fn begin(&self, name: &str, file: &Contents, settings: &Settings) -> Option<Begun> {
        let tried = Some((file.digest.clone(), settings.clone()));
        let mut entries = self.entries();
        let entry = entries.entry(name.to_owned()).or_default();
        if entry.tried == tried {
            return None;
        }
        let overtaken = CancellationToken::new();
        entry.tried = tried;
        entry.held = None;
        entry.turn += 1;
        entry.loading = Some((entry.turn, overtaken.clone().drop_guard()));
        let (pin, let_go) = self.history().map(|history| history.pin_for(name, &file.digest)).unwrap_or_default();
        if let_go {
            entry.rolled_back_from = None;
        }
        Some(Begun { turn: entry.turn, overtaken, pin, let_go })
    }

    /// Takes what was loaded, unless something else was to serve meanwhile. `new` is what it may not serve for, and its file.
    fn end(
        &self,
        name: &str,
        turn: u64,
        loaded: Result<Plugin, LoadError>,
        rolled_back_from: Option<String>,
        (new, file): (New, &Contents),
    ) -> Taken {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(name) else { return Taken::Overtaken };
        if let Some((_, guard)) = entry.loading.take_if(|(loading, _)| *loading == turn) {
            // What follows from it is not to be ended.
            guard.disarm();
        }
        if entry.turn != turn {
            return Taken::Overtaken;
        }
        match loaded {
            Ok(plugin) if new.is_nothing() => {
                entry.serve(Arc::new(plugin), rolled_back_from);
                self.swap(entries);
                Taken::Serves
            }
            Ok(plugin) => {
                entry.hold(name, Held { plugin: Arc::new(plugin), bytes: file.bytes.clone(), new });
                Taken::Held
            }
            Err(error) => Taken::failed(entry.fail(name, &error, self.rescan())),
        }
    }
}

impl Entry {
    fn hold(&mut self, name: &str, held: Held) {
        let words = held.words(self.serving().map(Arc::as_ref));
        tracing::warn!(plugin.id = %name, "plugin held: {words}");
        self.error = None;
        self.held = Some(held);
    }
}
