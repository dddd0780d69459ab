//! Holding back a build that can do more than the one that serves, until a person has approved it.
//!
//! Asked for by `plugins.hold_new_capabilities`. What a build can do is what it imports, and the types that it takes from
//! other plugins; the version of an interface makes no difference, neither does what is granted, and what gives every plugin
//! the same (clocks, files, sockets: nothing) is left out. A build that has served before is known. What was approved has served,
//! and what has served is kept with its digest: so a restart holds the builds that were held and no others.

use std::sync::Arc;

use bytes::Bytes;

use super::history::History;
use super::settings::Settings;
use super::{Plugin, Registry, Status, Taking};

/// How many characters of a digest are told in sentences.
const SHORT: usize = 12;

/// A build that is ready to serve and may not yet.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) plugin: Arc<Plugin>,
    /// Its file.
    pub(super) bytes: Bytes,
    /// What it is held for.
    pub(super) new: New,
}

/// What a build can do that the version that serves cannot.
#[derive(Clone, Debug, Default)]
pub(super) struct New {
    /// What it imports beyond what that version does.
    pub(super) imports: Vec<String>,
    /// The types that it would take from other plugins.
    pub(super) takes: Vec<Taking>,
}

impl New {
    /// Whether there is nothing to hold a build for.
    pub(super) fn is_nothing(&self) -> bool {
        self.imports.is_empty() && self.takes.is_empty()
    }

    /// What it is, for sentences such as "the build ...".
    fn words(&self) -> String {
        let imports = (!self.imports.is_empty()).then(|| format!("imports {}", self.imports.join(", ")));
        let takes =
            self.takes.iter().map(|Taking { types, plugin }| format!("takes {types} from the plugin {plugin:?}"));
        imports.into_iter().chain(takes).collect::<Vec<_>>().join(" and ")
    }
}

/// Why a build was not approved. What served still serves.
#[derive(Debug, thiserror::Error)]
pub enum ApproveError {
    /// No such plugin.
    #[error("there is no plugin {0:?}; GET /plugins lists them")]
    Unknown(String),
    /// Nothing is held.
    #[error("no build of {0:?} waits to be approved")]
    NoneHeld(String),
    /// Another one is held by now.
    #[error("the build of {name:?} that waits to be approved is {held}, not {asked}; see what it imports first")]
    Another {
        /// The plugin.
        name: String,
        /// The digest that was given.
        asked: String,
        /// The digest of the one that is held.
        held: String,
    },
}

impl Held {
    /// What is held, why, and what to do about it.
    pub(super) fn words(&self, serving: Option<&Plugin>) -> String {
        let name = self.plugin.name();
        let (build, new) = (short(self.plugin.digest()), self.new.words());
        let than = match serving {
            Some(serving) => format!("which {} that serves does not", short(serving.digest())),
            None => "and nothing serves that it could be compared to".to_owned(),
        };
        format!(
            "the build {build} {new}, {than}; it serves once it is approved: eventstream plugin approve {name} \
             (POST /plugins/{name}/approve)"
        )
    }
}

impl Registry {
    /// What keeps a build from serving: what it can do that the version that serves cannot. Nothing if nothing does. If nothing serves, the version is brought back first that served last.
    pub(super) async fn new_capabilities(&self, name: &str, build: &Plugin, settings: &Settings, turn: u64) -> New {
        let Some(history) = self.history().filter(|_| self.options().hold_new_capabilities) else {
            return New::default();
        };
        if history.has_served(name, build.digest()) {
            return New::default();
        }
        let is_first = history.before(name, None).is_none();
        self.fall_back(name, settings.clone(), turn).await;
        let serving = self.entries().get(name).and_then(|entry| entry.serving().cloned());
        let imports = match &serving {
            Some(serving) => build.capabilities().difference(&serving.capabilities()).cloned().collect(),
            None if is_first => Vec::new(),
            // What served cannot be told any more, which is no reason to let more pass.
            None => build.capabilities().into_iter().collect(),
        };
        let had = serving.as_ref().map(|serving| serving.patterns()).unwrap_or_default();
        let patterns: Vec<_> = build.patterns().iter().filter(|pattern| !had.contains(pattern)).cloned().collect();
        let new = New { imports, takes: self.taken_from_others(name, &patterns) };
        if !new.is_nothing() {
            self.renew(name, settings, turn).await;
        }
        new
    }

    /// Has the build of a plugin serve that is held, and gives the status that follows. With a `digest` only if it is that
    /// one. Dropping the future may leave it to be approved again after a restart.
    ///
    /// # Errors
    /// See [`ApproveError`].
    pub async fn approve(&self, name: &str, digest: Option<&str>) -> Result<Status, ApproveError> {
        let unknown = || ApproveError::Unknown(name.to_owned());
        let (build, bytes) = {
            let mut entries = self.entries();
            let entry = entries.get_mut(name).ok_or_else(unknown)?;
            let held = entry.held.take().ok_or_else(|| ApproveError::NoneHeld(name.to_owned()))?;
            let build = held.plugin.digest().to_owned();
            if let Some(asked) = digest.filter(|asked| *asked != build) {
                entry.held = Some(held);
                return Err(ApproveError::Another { name: name.to_owned(), asked: asked.to_owned(), held: build });
            }
            let (short, new) = (short(&build), held.new.words());
            tracing::info!(plugin.id = %name, plugin.digest = %short, "plugin approved, which newly {new}");
            entry.serve(held.plugin, None);
            self.swap(entries);
            (build, held.bytes)
        };
        // What another plugin's types keep from serving has not served.
        if self.serving(name).is_none_or(|serving| serving.digest() != build) {
            return self.status(name).ok_or_else(unknown);
        }
        self.keep(name, move |history: &History, name| history.remember(name, &build, &bytes)).await;
        self.status(name).ok_or_else(unknown)
    }
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}
