//! What is done about a file that is ready: it is read, loaded, and serves; or it is told why not.
//!
//! Whatever happens meanwhile (a rollback, an approval, another look) is noticed by the turn: what was begun before is then
//! not taken.

use std::sync::Arc;

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
    /// What serves in its place, if it was rolled back from.
    pin: Option<Pin>,
}

/// What came of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Serves,
    Held,
    Failed,
    /// It failed for what is no fault of the file's.
    MayPass,
    /// Something else was to serve meanwhile, or the same was tried before.
    Overtaken,
}

impl Taken {
    fn failed(error: &LoadError) -> Self {
        if error.may_pass() { Self::MayPass } else { Self::Failed }
    }
}

impl Registry {
    /// Loads a plugin's files, if they are not what was tried before, and swaps.
    pub(super) async fn take(&self, name: &str, listed: Listed) -> Taken {
        self.removed.forget(name);
        let (file, settings) = match self.read(name, listed).await {
            Ok(read) => read,
            Err(error) => {
                let mut entries = self.entries();
                entries.entry(name.to_owned()).or_default().fail(name, &error);
                return Taken::failed(&error);
            }
        };
        let Some(Begun { turn, pin }) = self.begin(name, &file, &settings).await else { return Taken::Overtaken };
        let (file, rolled_back_from) = self.in_place_of(name, file, pin).await;
        let version = file.clone();
        let loaded = self.loader.load(name, file, settings.clone()).await;
        let new = match &loaded {
            Ok(build) if rolled_back_from.is_none() => self.new_capabilities(name, build, &settings, turn).await,
            _ => New::default(),
        };
        let is_the_file = rolled_back_from.is_none();
        let taken = self.end(name, turn, loaded, rolled_back_from, (new, &version));
        match taken {
            Taken::Failed | Taken::MayPass if is_the_file => self.fall_back(name, settings, turn).await,
            Taken::Serves if is_the_file && self.serving(name).is_some_and(|it| it.digest() == version.digest) => {
                self.keep(name, move |history, name| history.remember(name, &version.digest, &version.bytes)).await;
            }
            _ => {}
        }
        taken
    }

    async fn read(&self, name: &str, listed: Listed) -> Result<(Contents, Settings), LoadError> {
        let beneath = self.options().settings.get(name).cloned().unwrap_or_default();
        let limit_bytes = self.loader.max_file_bytes;
        let read = move || {
            let settings = match &listed.settings {
                None => beneath,
                Some(path) => Settings::parse(&std::io::read_to_string(load::open_regular(path)?)?)?.over(&beneath),
            };
            Ok::<_, LoadError>((load::read(load::open_regular(&listed.path)?, limit_bytes)?, settings))
        };
        self.loader.machine.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))
    }

    /// Notes that a file is being loaded; `None` if it is what was tried before.
    async fn begin(&self, name: &str, file: &Contents, settings: &Settings) -> Option<Begun> {
        let tried = Some((file.digest.clone(), settings.clone()));
        let (begun, let_go) = {
            let mut entries = self.entries();
            let entry = entries.entry(name.to_owned()).or_default();
            if entry.tried == tried {
                return None;
            }
            entry.tried = tried;
            entry.held = None;
            entry.is_loading = true;
            entry.turn += 1;
            let (pin, let_go) = self.history().map(|history| history.pin_for(name, &file.digest)).unwrap_or_default();
            if let_go {
                entry.rolled_back_from = None;
            }
            (Begun { turn: entry.turn, pin }, let_go)
        };
        if let_go {
            self.keep(name, History::save).await;
        }
        Some(begun)
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
        entry.is_loading = false;
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
            Err(error) => {
                entry.fail(name, &error);
                Taken::failed(&error)
            }
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
