//! Holding back a build that can do more than the one that serves, until a person has approved it.
//!
//! A build is held for the types whose events it would take from another plugin, unless `plugins.hold_taken_types` is off;
//! and for what it newly imports, if `plugins.hold_new_capabilities` is on. The version of an interface makes no difference,
//! neither does what is granted, and what gives every plugin the same (clocks, files, sockets: nothing) is left out.
//!
//! What was approved has served, and what has served is kept with its digest and its types: so a restart holds the builds
//! that were held and no others. At a start at which nothing is known everything in the directory is how a person laid it out.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::plugin::component::loader;
use crate::plugin::component::loader::FileContents;
use crate::plugin::data_dir::version_history::VersionHistory;
use crate::plugin::settings::PluginSettings;
use crate::plugin::{Plugin, PluginRegistry, PluginReport, TakenTypes, TypePattern};

/// How many characters of a digest are told in sentences.
const SHORT: usize = 12;

/// A build that is ready to serve and may not yet.
#[derive(Debug)]
pub(in crate::plugin) struct HeldBuild {
    pub(in crate::plugin) plugin: Arc<Plugin>,
    /// Its file.
    pub(in crate::plugin) file: PathBuf,
    /// What it is held for.
    pub(in crate::plugin) new: AddedRights,
}

/// What a build can do that the version that serves cannot.
#[derive(Clone, Debug, Default)]
pub(in crate::plugin) struct AddedRights {
    /// What it imports beyond what that version does.
    pub(in crate::plugin) imports: Vec<String>,
    /// The types that it would take from other plugins.
    pub(in crate::plugin) takes: Vec<TakenTypes>,
}

impl AddedRights {
    /// Whether there is nothing to hold a build for.
    pub(in crate::plugin) fn is_nothing(&self) -> bool {
        self.imports.is_empty() && self.takes.is_empty()
    }

    /// What it is, for sentences such as "the build ...".
    fn words(&self) -> String {
        let imports = (!self.imports.is_empty()).then(|| format!("imports {}", self.imports.join(", ")));
        let takes =
            self.takes.iter().map(|TakenTypes { types, plugin }| format!("takes {types} from the plugin {plugin:?}"));
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
    /// It was not said which build is meant.
    #[error("say which build is approved: POST /plugins/{name}/approve?digest={held}, a build that {new}")]
    Unnamed {
        /// The plugin.
        name: String,
        /// The digest of the build that is held.
        held: String,
        /// What it is held for.
        new: String,
    },
    /// Another one is held by now.
    #[error("the build of {name:?} that waits to be approved is {held}, not {asked}: it {new}; look at it first")]
    Another {
        /// The plugin.
        name: String,
        /// The digest that was given.
        asked: String,
        /// The digest of the one that is held.
        held: String,
        /// What it is held for.
        new: String,
    },
    /// The file is not the build that is held any more.
    #[error("{file:?} is not the build {digest} any more: {why}; look at it first")]
    Swapped {
        /// The file.
        file: PathBuf,
        /// The digest of the build that is held.
        digest: String,
        /// What the file is now.
        why: String,
    },
}

impl HeldBuild {
    /// What is held, why, and what to do about it.
    pub(in crate::plugin) fn words(&self, serving: Option<&Plugin>) -> String {
        let name = self.plugin.name();
        let (digest, new) = (self.plugin.digest(), self.new.words());
        let than = match serving {
            Some(serving) => format!("which {} that serves does not", short(serving.digest())),
            None if self.new.imports.is_empty() => "and no version of it serves".to_owned(),
            None => "and nothing serves that it could be compared to".to_owned(),
        };
        format!(
            "the build {} {new}, {than}; it serves once it is approved: eventstream plugin approve {name} --digest {digest} \
             (POST /plugins/{name}/approve?digest={digest})",
            short(digest)
        )
    }
}

impl PluginRegistry {
    /// What keeps a build from serving: what it can do that the version that serves cannot. Nothing if nothing does. If
    /// nothing serves, the version is brought back first that served last.
    pub(in crate::plugin) async fn new_capabilities(
        &self,
        name: &str,
        build: &Plugin,
        settings: &PluginSettings,
        turn: u64,
    ) -> AddedRights {
        let takes = self.takes(name, build);
        let is_known = self.history().is_none_or(|history| history.has_served(name, build.digest()));
        let compares = self.options().hold_new_capabilities && !is_known;
        if takes.is_empty() && !compares {
            return AddedRights::default();
        }
        let is_first = self.history().is_none_or(|history| history.before(name, None).is_none());
        self.fall_back(name, settings.clone(), turn).await;
        let serving = self.entries().get(name).and_then(|entry| entry.serving().cloned());
        let imports = match &serving {
            _ if !compares => Vec::new(),
            Some(serving) => build.capabilities().difference(&serving.capabilities()).cloned().collect(),
            None if is_first => Vec::new(),
            // What served cannot be told any more, which is no reason to let more pass.
            None => build.capabilities().into_iter().collect(),
        };
        let new = AddedRights { imports, takes };
        if !new.is_nothing() {
            self.renew(name, settings, turn).await;
        }
        new
    }

    /// The types that a plugin would take from others with this build, and that nobody said it may: neither by approving
    /// them nor in `[plugins.NAME]` of the settings of this server.
    pub(in crate::plugin) fn takes(&self, name: &str, build: &Plugin) -> Vec<TakenTypes> {
        if !self.options().hold_taken_types {
            return Vec::new();
        }
        let serving = self.entries().get(name).and_then(|entry| entry.serving().cloned());
        let given = self.options().settings.get(name).and_then(|settings| settings.types.as_ref());
        let is_its_own = |pattern: &TypePattern| {
            serving.as_ref().is_some_and(|serving| serving.patterns().contains(pattern))
                || given.is_some_and(|types| types.contains(pattern))
                || self.history().is_some_and(|history| history.had(name, build.digest(), pattern))
        };
        let patterns: Vec<_> = build.patterns().iter().filter(|pattern| !is_its_own(pattern)).cloned().collect();
        self.taken_from_others(name, &patterns)
    }

    /// Has the build of a plugin serve that is held, if it has this digest and still stands in the directory, and gives the
    /// status that follows. Dropping the future may leave it to be approved again after a restart.
    ///
    /// # Errors
    /// See [`ApproveError`].
    pub async fn approve(&self, name: &str, digest: Option<&str>) -> Result<PluginReport, ApproveError> {
        let unknown = || ApproveError::Unknown(name.to_owned());
        let none_held = || ApproveError::NoneHeld(name.to_owned());
        let (build, file) = {
            let entries = self.entries();
            let held = entries.get(name).ok_or_else(unknown)?.held.as_ref().ok_or_else(none_held)?;
            let (name, build, new) = (name.to_owned(), held.plugin.digest().to_owned(), held.new.words());
            match digest {
                None => return Err(ApproveError::Unnamed { name, held: build, new }),
                Some(asked) if asked != build => {
                    return Err(ApproveError::Another { name, asked: asked.to_owned(), held: build, new });
                }
                Some(_) => (build, held.file.clone()),
            }
        };
        let (read, limit_bytes) = (file.clone(), self.loader.max_file_bytes);
        let read = self.loader.machine.executor.run_blocking(move || loader::read(&read, limit_bytes)).await;
        let why = match read {
            None => "the host failed to read it".to_owned(),
            Some(Err(error)) => error.to_string(),
            Some(Ok(contents)) if contents.digest != build => format!("it is {}", contents.digest),
            Some(Ok(contents)) => return self.approved(name, &build, contents).await,
        };
        Err(ApproveError::Swapped { file, digest: build, why })
    }

    async fn approved(&self, name: &str, build: &str, file: FileContents) -> Result<PluginReport, ApproveError> {
        let unknown = || ApproveError::Unknown(name.to_owned());
        {
            let mut entries = self.entries();
            let entry = entries.get_mut(name).ok_or_else(unknown)?;
            let held = entry.held.take_if(|held| held.plugin.digest() == build);
            let HeldBuild { plugin, new, .. } = held.ok_or_else(|| ApproveError::NoneHeld(name.to_owned()))?;
            let (short, new) = (short(build), new.words());
            tracing::info!(plugin.id = %name, plugin.digest = %short, "plugin approved, which newly {new}");
            entry.serve(plugin, None);
            self.swap(entries);
        }
        // What another plugin's types keep from serving has not served.
        if let Some(serving) = self.serving(name).filter(|serving| serving.digest() == build) {
            self.remember(name, &serving, file.bytes).await;
        }
        self.status(name).ok_or_else(unknown)
    }

    /// Keeps a version that serves, with its types, for the next start and for going back.
    pub(in crate::plugin) async fn remember(&self, name: &str, serving: &Plugin, bytes: Bytes) {
        let (digest, types) = (serving.digest().to_owned(), serving.patterns().to_vec());
        self.keep(name, move |history: &VersionHistory, name| history.remember(name, &digest, &bytes, &types)).await;
    }
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}
