//! The life of one plugin as a state machine: its versions, the verdict on its file, and the load under way.
//!
//! The registry keeps one [`PluginEntry`] for each name and changes it only by the methods here. Three parts move
//! independently of each other:
//!
//! - the versions: the one chosen last, and the one before it while routing refuses the newer one;
//! - the verdict on the file in the directory: clear, held for an approval, or failed;
//! - the load under way, which a newer load or a removal cancels and a rollback makes obsolete.
//!
//! The generation numbers loads and rollbacks. A load that ends under another generation than it began with is obsolete,
//! and the registry discards its result.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::routing::PluginVersions;
use crate::plugin::Plugin;
use crate::plugin::component::load_error::LoadError;
use crate::plugin::settings::PluginSettings;
use crate::plugin_report::{PluginStatus, TakenTypes};

/// How often a file is compiled again after its compiler was killed. Each pause is twice as long as the one before.
pub(super) const MAX_RETRIES_AFTER_KILL: u32 = 5;

/// What the registry knows of one plugin. Dropping it cancels the load under way.
#[derive(Debug)]
pub(super) struct PluginEntry<P = Plugin> {
    newest: Option<Arc<P>>,
    /// The version that served before `newest`; kept until routing accepts `newest`.
    last_good: Option<Arc<P>>,
    /// Why routing refuses `newest`.
    conflict: Option<String>,
    file: FileVerdict<P>,
    load: Option<LoadInProgress>,
    attempted: Option<AttemptedFile>,
    kills: Option<CompilerKills>,
    /// The digest of the file in whose place an earlier version serves.
    rolled_back_from: Option<String>,
    generation: u64,
}

/// What became of the file in the directory.
#[derive(Debug)]
enum FileVerdict<P> {
    /// Nothing speaks against it so far.
    Clear,
    Held(HeldBuild<P>),
    /// The message for a person.
    Failed(String),
}

#[derive(Debug)]
struct LoadInProgress {
    generation: u64,
    /// Cancels [`StartedLoad::cancelled`] when it is dropped.
    cancel: DropGuard,
}

/// A file and its settings as they were loaded last, or failed to load.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AttemptedFile {
    pub(super) digest: String,
    pub(super) settings: PluginSettings,
}

#[derive(Debug)]
struct CompilerKills {
    digest: String,
    times: u32,
}

/// A load that has begun.
#[derive(Debug)]
pub(super) struct StartedLoad {
    pub(super) generation: u64,
    /// Cancelled when a newer load begins or the plugin goes.
    pub(super) cancelled: CancellationToken,
    /// The plugin was rolled back from this file, and somebody wrote the file again: it may serve after all.
    pub(super) is_put_back: bool,
}

/// What follows from a failed load.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotedFailure {
    /// The message, if it is another one than before.
    pub(super) news: Option<String>,
    /// After which pause to load the same file again; `None` if that cannot help.
    pub(super) retry_after: Option<Duration>,
}

impl<P> Default for PluginEntry<P> {
    fn default() -> Self {
        Self {
            newest: None,
            last_good: None,
            conflict: None,
            file: FileVerdict::Clear,
            load: None,
            attempted: None,
            kills: None,
            rolled_back_from: None,
            generation: 0,
        }
    }
}

impl<P> PluginEntry<P> {
    /// Begins to load a file, and cancels the load before it. `None` if the same file was attempted with the same
    /// settings. `was_written` says that the file was written since the last scan.
    pub(super) fn begin_load(&mut self, file: AttemptedFile, was_written: bool) -> Option<StartedLoad> {
        let is_put_back = was_written && self.rolled_back_from.as_ref() == Some(&file.digest);
        if self.attempted.as_ref() == Some(&file) && !is_put_back {
            return None;
        }
        self.attempted = Some(file);
        self.withdraw_held();
        self.generation += 1;
        let cancelled = CancellationToken::new();
        self.load = Some(LoadInProgress { generation: self.generation, cancel: cancelled.clone().drop_guard() });
        Some(StartedLoad { generation: self.generation, cancelled, is_put_back })
    }

    /// Ends a load. `false` if it is obsolete: the caller discards the result. Otherwise [`Self::serve`],
    /// [`Self::hold`] or [`Self::fail`] follows.
    pub(super) fn end_load(&mut self, generation: u64) -> bool {
        if let Some(load) = self.load.take_if(|load| load.generation == generation) {
            // The caller still has to finish what follows from the load.
            load.cancel.disarm();
        }
        self.is_current(generation)
    }

    /// Chooses a version to serve. `rolled_back_from` is the digest of the file in whose place it serves.
    pub(super) fn serve(&mut self, version: Arc<P>, rolled_back_from: Option<String>) {
        self.file = FileVerdict::Clear;
        self.last_good = self.serving().cloned();
        self.newest = Some(version);
        self.rolled_back_from = rolled_back_from;
    }

    /// Holds the build of the file until it is approved. A version that routing refuses is dropped.
    pub(super) fn hold(&mut self, held: HeldBuild<P>) {
        if self.conflict.take().is_some() {
            self.newest = self.last_good.take();
        }
        self.file = FileVerdict::Held(held);
    }

    /// Notes that the file cannot be loaded. `rescan` is the pause between two scans of the directory.
    pub(super) fn fail(&mut self, error: &LoadError, rescan: Duration) -> NotedFailure {
        let message = error.to_string();
        let is_news = !matches!(&self.file, FileVerdict::Failed(before) if *before == message);
        let news = is_news.then(|| message.clone());
        self.file = FileVerdict::Failed(message);
        let retry_after = match error {
            LoadError::CompilerKilled(_) => self.pause_after_kill(rescan),
            _ => error.is_temporary().then_some(Duration::ZERO),
        };
        // Settings that cannot be read leave it open which settings were attempted.
        if retry_after.is_some() || matches!(error, LoadError::Settings(_)) {
            self.attempted = None;
        }
        NotedFailure { news, retry_after }
    }

    /// The kernel kills a process that takes much memory, perhaps because of other processes. A file whose compiler is
    /// killed every time is given up.
    fn pause_after_kill(&mut self, rescan: Duration) -> Option<Duration> {
        let digest = &self.attempted.as_ref()?.digest;
        let before = self.kills.as_ref().filter(|kills| kills.digest == *digest).map_or(0, |kills| kills.times);
        self.kills = Some(CompilerKills { digest: digest.clone(), times: before + 1 });
        (before < MAX_RETRIES_AFTER_KILL).then(|| rescan * (1 << before))
    }

    /// Chooses an earlier version while the file stays failed or routing refuses it. `rolled_back_from` is the digest of the
    /// file in whose place it serves. `false`, and nothing changes, if `generation` is obsolete.
    pub(super) fn restore(&mut self, generation: u64, version: Arc<P>, rolled_back_from: Option<String>) -> bool {
        if !self.is_current(generation) {
            return false;
        }
        if self.conflict.is_some() && self.last_good.is_none() {
            self.last_good = Some(version);
            return true;
        }
        let verdict = std::mem::replace(&mut self.file, FileVerdict::Clear);
        self.serve(version, rolled_back_from);
        if matches!(verdict, FileVerdict::Failed(_)) {
            self.file = verdict;
        }
        true
    }

    /// Chooses the held build with this digest, and returns it with what it was held for.
    pub(super) fn approve(&mut self, digest: &str) -> Option<(Arc<P>, AddedRights)> {
        match std::mem::replace(&mut self.file, FileVerdict::Clear) {
            FileVerdict::Held(held) if held.digest == digest => {
                self.serve(held.build.clone(), held.rolled_back_from);
                Some((held.build, held.added))
            }
            verdict => {
                self.file = verdict;
                None
            }
        }
    }

    /// Chooses an earlier version in place of the file, and returns the digest of that file. A load under way becomes
    /// obsolete. `serving` is the digest of the version that serves.
    pub(super) fn roll_back(&mut self, version: Arc<P>, serving: Option<&str>) -> String {
        self.generation += 1;
        let attempted = self.attempted.as_ref().map(|file| file.digest.as_str());
        let from = attempted.or(serving).unwrap_or_default().to_owned();
        self.serve(version, Some(from.clone()));
        from
    }

    /// Ends a rollback: the file in the directory is another one, or was put back.
    pub(super) fn end_rollback(&mut self) {
        self.rolled_back_from = None;
    }

    /// Notes what routing decided on `newest`: `conflict` says why it was refused. `true` if that is news.
    pub(super) fn set_conflict(&mut self, conflict: Option<String>) -> bool {
        let is_news = conflict.is_some() && self.conflict != conflict;
        self.conflict = conflict;
        if self.conflict.is_none() && self.newest.is_some() {
            self.last_good = None;
        }
        is_news
    }

    /// Lets the same file be loaded once more. `false` if it may be already.
    pub(super) fn forget_attempt(&mut self) -> bool {
        self.attempted.take().is_some()
    }

    fn withdraw_held(&mut self) {
        if matches!(self.file, FileVerdict::Held(_)) {
            self.file = FileVerdict::Clear;
        }
    }

    fn is_current(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// The version that serves, unless another plugin has the types of that one too.
    pub(super) fn serving(&self) -> Option<&Arc<P>> {
        match self.conflict {
            None => self.newest.as_ref(),
            Some(_) => self.last_good.as_ref(),
        }
    }

    /// The versions that routing chooses from.
    pub(super) fn versions(&self) -> PluginVersions<P> {
        PluginVersions { newest: self.newest.clone(), last_good: self.last_good.clone() }
    }

    /// Whether the file in the directory was loaded, is held, or failed.
    pub(super) fn has_been_attempted(&self) -> bool {
        let is_decided = self.newest.is_some() || !matches!(self.file, FileVerdict::Clear);
        self.load.is_none() && is_decided
    }

    pub(super) fn attempted(&self) -> Option<&AttemptedFile> {
        self.attempted.as_ref()
    }

    pub(super) fn held(&self) -> Option<&HeldBuild<P>> {
        match &self.file {
            FileVerdict::Held(held) => Some(held),
            _ => None,
        }
    }

    /// The build of the file, if routing refuses it.
    pub(super) fn refused(&self) -> Option<&Arc<P>> {
        let is_of_the_file = matches!(self.file, FileVerdict::Clear);
        self.newest.as_ref().filter(|_| is_of_the_file && self.conflict.is_some())
    }

    pub(super) fn rolled_back_from(&self) -> Option<&str> {
        self.rolled_back_from.as_deref()
    }

    /// Why the file in the directory does not serve. `serving` is the digest of the version that routing lets serve.
    pub(super) fn problem(&self, name: &str, serving: Option<&str>) -> Option<String> {
        match &self.file {
            FileVerdict::Failed(message) => Some(message.clone()),
            FileVerdict::Held(held) => Some(held.describe(name, serving)),
            FileVerdict::Clear => self.conflict.clone(),
        }
    }

    /// `serves` says whether routing lets a version of the plugin serve.
    pub(super) fn status(&self, serves: bool) -> PluginStatus {
        let is_fine = matches!(self.file, FileVerdict::Clear) && self.conflict.is_none();
        match (&self.load, &self.file) {
            (Some(_), _) => PluginStatus::Compiling,
            (None, FileVerdict::Held(_)) => PluginStatus::NeedsApproval,
            (None, _) if is_fine && serves => PluginStatus::Active,
            (None, _) if serves => PluginStatus::FailedKeptLastGood,
            (None, _) => PluginStatus::Failed,
        }
    }
}

/// How many characters of a digest messages show.
const SHORT_DIGEST_CHARS: usize = 12;

/// A build that is loaded and may not serve before a person approves it.
#[derive(Debug)]
pub(super) struct HeldBuild<P = Plugin> {
    pub(super) build: Arc<P>,
    pub(super) digest: String,
    /// The file that the build was loaded from.
    pub(super) file: PathBuf,
    /// The digest of that file, if the build is an earlier version in its place.
    pub(super) rolled_back_from: Option<String>,
    /// What the build is held for.
    pub(super) added: AddedRights,
}

/// What a build can do that the version that serves cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AddedRights {
    /// The interfaces that only the build imports.
    pub(super) imports: Vec<String>,
    /// The types that the build would take from other plugins.
    pub(super) takes: Vec<TakenTypes>,
}

impl AddedRights {
    pub(super) fn is_empty(&self) -> bool {
        self.imports.is_empty() && self.takes.is_empty()
    }

    /// A predicate for sentences such as "the build ...".
    pub(super) fn describe(&self) -> String {
        let imports = (!self.imports.is_empty()).then(|| format!("imports {}", self.imports.join(", ")));
        let takes =
            self.takes.iter().map(|TakenTypes { types, plugin }| format!("takes {types} from the plugin {plugin:?}"));
        imports.into_iter().chain(takes).collect::<Vec<_>>().join(" and ")
    }
}

impl<P> HeldBuild<P> {
    /// What is held, why, and how to approve it. `name` is the plugin, `serving` the digest of the version that serves.
    pub(super) fn describe(&self, name: &str, serving: Option<&str>) -> String {
        let (digest, added) = (&self.digest, self.added.describe());
        let compared = match serving {
            Some(serving) => format!("which {} that serves does not", short_digest(serving)),
            None if self.added.imports.is_empty() => "and no version of it serves".to_owned(),
            None => "and nothing serves that it could be compared to".to_owned(),
        };
        format!(
            "the build {} {added}, {compared}; it serves once it is approved: eventstream plugin approve {name} --digest \
             {digest} (POST /plugins/{name}/approve?digest={digest})",
            short_digest(digest)
        )
    }
}

/// Types with their owners, for sentences.
pub(super) fn describe_owned(owned: &[TakenTypes]) -> String {
    let each = owned.iter().map(|TakenTypes { types, plugin }| format!("{types} belongs to the plugin {plugin:?}"));
    each.collect::<Vec<_>>().join(" and ")
}

/// The beginning of a digest, for messages.
pub(super) fn short_digest(digest: &str) -> &str {
    digest.get(..SHORT_DIGEST_CHARS).unwrap_or(digest)
}
