//! Which plugins there are, and which of them handles which type.
//!
//! The routing is swapped whole and read without a lock. What a look at the directory changes is decided under one lock,
//! one look at a time; loading happens outside of it. A file that cannot be loaded changes nothing but the status shown.

pub(super) mod approval;
#[cfg(test)]
pub(super) mod approval_tests;
#[cfg(test)]
pub(super) mod data_dir_tests;
pub(super) mod directory_scan;
pub(super) mod directory_watch;
pub(super) mod load_file;
pub(super) mod overlooked;
pub(super) mod pattern_owners;
pub(super) mod reconcile;
#[cfg(test)]
pub(super) mod reconcile_tests;
#[cfg(test)]
pub(super) mod registry_tests;
pub(super) mod removal;
pub(super) mod rollback;
pub(super) mod routing;
pub(super) mod start_progress;
pub(super) mod status;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use self::approval::HeldBuild;
use self::directory_scan::DirectoryScan;
use self::overlooked::OverlookedChanges;
use self::pattern_owners::{PatternOwners, ReservedPatterns};
use self::routing::{PluginVersions, RouteTable, TypePattern};
use self::start_progress::{ExpectedPlugins, StartProgress};
use self::status::{NeedsApproval, TakenTypes};
use super::component::load_error::LoadError;
use super::component::loader::PluginLoader;
use super::data_dir::PluginDataDir;
use super::data_dir::removal_record::RemovalRecord;
use super::settings::PluginSettings;
use super::{Error, GuestJob, Plugin, PluginReport, PluginStatus, RegistryOptions};
use crate::event::EventType;

/// How often a file is compiled again whose compiler was killed, each time after twice the pause.
const MAX_KILLS: u32 = 5;

/// Which plugin handles which type.
pub struct PluginRegistry {
    options: RegistryOptions,
    pub(super) loader: PluginLoader,
    table: ArcSwap<RouteTable>,
    /// Whose plugins go before others: those of the routing in force; at the start, those that served before the host was
    /// stopped, so that what comes first says nothing.
    settled: ArcSwap<PatternOwners>,
    pub(super) reserved: Mutex<ReservedPatterns>,
    pub(super) start: StartProgress,
    entries: Mutex<BTreeMap<String, PluginEntry>>,
    pub(super) directory: tokio::sync::Mutex<DirectoryScan>,
    pub(super) removed: RemovalRecord,
    pub(super) overlooked: Mutex<OverlookedChanges>,
    /// One at a time goes back.
    pub(super) rollbacks: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
    /// How many plugins are being loaded of which no version serves.
    pub(super) preparing: watch::Sender<usize>,
}

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct PluginEntry {
    pub(super) newest: Option<Arc<Plugin>>,
    pub(super) last_good: Option<Arc<Plugin>>,
    /// Why the file could not be loaded.
    pub(super) error: Option<String>,
    /// Why what was loaded may not serve.
    pub(super) refused: Option<String>,
    /// A build that is ready and is to be approved first.
    pub(super) held: Option<HeldBuild>,
    /// The file that is being loaded, by its turn. Ended when another one is begun or the plugin goes.
    pub(super) loading: Option<(u64, DropGuard)>,
    /// The digest of a file whose compiler was killed, and how often.
    pub(super) killed: Option<(String, u32)>,
    /// The digest and the settings of what was loaded or failed to.
    pub(super) tried: Option<(String, PluginSettings)>,
    /// The digest of the file in whose place an earlier version serves.
    pub(super) rolled_back_from: Option<String>,
    /// How often something else was to serve. What was begun before the last time is not taken.
    pub(super) turn: u64,
}

impl PluginRegistry {
    /// Sets the sandbox up and loads what is in the directory. A file that cannot be loaded is no error: its status says
    /// why.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(options: RegistryOptions) -> Result<Arc<Self>, Error> {
        let registry = Self::prepare(options).await?;
        registry.load_all().await;
        Ok(registry)
    }

    /// Sets the sandbox up and loads nothing yet: [`Registry::load_all`] is to follow, once. Until it has ended, types are
    /// routed by exact patterns only, since a pattern such as `order.*` may give way to a plugin that is not loaded yet.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn prepare(mut options: RegistryOptions) -> Result<Arc<Self>, Error> {
        let attempts = options.concurrency.max(1).saturating_add(options.reserve);
        let unreadable = |source| Error::Directory { dir: options.dir.clone(), source };
        if options.may_make_dir {
            fs::create_dir_all(&options.dir).map_err(unreadable)?;
        }
        fs::read_dir(&options.dir).map_err(unreadable)?;

        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut loader = PluginLoader::start(&options, attempts, threads)?;
        options.concurrency = loader.sandbox.capacity.concurrency(&options)?;
        loader.kept = PluginDataDir::for_loader(&options, &loader).await?.map(Arc::new);
        directory_scan::warn_of_others(&options.dir);
        let (dir, settings) = (options.dir.clone(), options.settings.clone());
        let expected = loader.machine.executor.run_blocking(move || ExpectedPlugins::read(&dir, &settings)).await;
        Ok(Arc::new(Self {
            loader,
            table: ArcSwap::default(),
            settled: ArcSwap::default(),
            start: StartProgress::new(expected.unwrap_or_default()),
            reserved: Mutex::default(),
            entries: Mutex::default(),
            directory: tokio::sync::Mutex::default(),
            removed: RemovalRecord::default(),
            overlooked: Mutex::default(),
            rollbacks: tokio::sync::Mutex::default(),
            changes: watch::channel(0).0,
            // The start counts as one plugin: nobody knows yet what will be handled.
            preparing: watch::channel(1).0,
            options,
        }))
    }

    /// How many attempts may run side by side: as many as were asked for, or as there is room for.
    pub fn concurrency(&self) -> usize {
        self.options.concurrency
    }

    /// The plugin for a type: the one with the most specific pattern that matches.
    pub fn route(&self, event_type: &EventType) -> Option<Arc<Plugin>> {
        let table = self.table.load();
        if self.is_starting() { table.route_exact(event_type) } else { table.route(event_type) }.cloned()
    }

    /// The plugins that serve now, by name.
    pub fn active(&self) -> Vec<Arc<Plugin>> {
        self.table.load().active().values().cloned().collect()
    }

    /// Works off, on the threads of guests, what `next` gives, until it gives none. Jobs that are quick run one after the
    /// other, without a hand-over for each; one that waits or burns CPU goes on by itself, beside those that come after it.
    /// Whatever `next` and the jobs own is dropped on those threads, so none of it may be the last owner of the registry.
    pub fn work_off(&self, next: impl FnMut() -> Option<GuestJob> + Send + 'static) {
        self.loader.machine.executor.work_off(next);
    }

    /// Does one job on the threads of guests. What holds for the jobs of [`Registry::work_off`] holds for it.
    pub fn work(&self, job: GuestJob) {
        self.loader.machine.executor.work(job);
    }

    /// How many threads begin jobs.
    pub fn threads(&self) -> usize {
        self.loader.machine.executor.threads()
    }

    /// Whether a plugin is being loaded of which no version serves yet, so that nobody knows what it will handle.
    pub fn is_preparing(&self) -> bool {
        *self.preparing.borrow() > 0
    }

    /// How many such plugins there are, for whoever waits for the end of [`Registry::is_preparing`].
    pub fn preparing(&self) -> watch::Receiver<usize> {
        self.preparing.subscribe()
    }

    /// Changes whenever a plugin was swapped, added or removed, and when the start is over.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn note_change(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// What can be told of every plugin in the directory, and of those that went, by name.
    pub fn statuses(&self) -> Vec<PluginReport> {
        let table = self.table.load();
        let entries = self.entries();
        let present = entries.iter().map(|(name, entry)| entry.status(name, table.active().get(name).map(Arc::as_ref)));
        let gone = self.removed.all();
        let gone = gone.iter().filter(|(name, _)| !entries.contains_key(*name));
        let mut statuses: Vec<PluginReport> =
            present.chain(gone.map(|(name, at)| PluginReport::removed(name, *at))).collect();
        statuses.sort_by(|one, other| one.name.cmp(&other.name));
        statuses
    }

    /// What lies in the directory or stands in the settings and is for no plugin, in words.
    pub fn overlooked(&self) -> Vec<String> {
        self.overlooked.lock().told()
    }

    /// What can be told of one of them.
    pub fn status(&self, name: &str) -> Option<PluginReport> {
        self.statuses().into_iter().find(|status| status.name == name)
    }

    /// Puts the routing in force that follows from what there is, and tells of each plugin that came into force.
    pub(super) fn swap(&self, mut entries: MutexGuard<'_, BTreeMap<String, PluginEntry>>) {
        let versions = entries
            .iter()
            .map(|(name, entry)| {
                let versions = PluginVersions { newest: entry.newest.clone(), last_good: entry.last_good.clone() };
                (name.clone(), versions)
            })
            .collect();
        let (table, mut refused) = {
            let reserved = self.reserved();
            RouteTable::of(&versions, &reserved.over(&self.settled.load()), |name| reserved.is_pending(name))
        };
        let before = self.table.load_full();
        for (name, entry) in entries.iter_mut() {
            let refusal = refused.remove(name);
            if let Some(words) = refusal.as_ref().filter(|words| entry.refused.as_ref() != Some(words)) {
                tracing::warn!(plugin.id = %name, "plugin not used: {words}");
            }
            entry.refused = refusal;
            let serves = table.active().get(name);
            if entry.refused.is_none() && entry.newest.is_some() {
                entry.last_good = None;
            }
            if let Some(plugin) = serves.filter(|plugin| is_new(plugin, before.active().get(name))) {
                let types: Vec<String> = plugin.patterns().iter().map(ToString::to_string).collect();
                let digest = &plugin.digest()[..12];
                tracing::info!(plugin.id = %name, plugin.digest = %digest, "plugin loaded for {}", types.join(", "));
                if let [first, ..] = plugin.other_dialects() {
                    let (used, first) = (plugin.dialect().interface(), first.interface());
                    tracing::warn!(plugin.id = %name, "plugin is called by {used}; it also exports {first}, which is not");
                }
            }
        }
        let table = Arc::new(table);
        if !self.is_starting() {
            self.settled.store(Arc::new(PatternOwners::of(&table)));
            self.reserved().settle();
        }
        self.table.store(table);
        drop(entries);
        self.note_change();
    }

    pub(super) fn options(&self) -> &RegistryOptions {
        &self.options
    }

    /// What serves now goes before what comes from now on.
    pub(super) fn settle_routing(&self) {
        self.settled.store(Arc::new(PatternOwners::of(&self.table.load())));
        self.reserved().settle();
    }

    pub(super) fn settle(&self) -> Duration {
        Duration::from_millis(self.options.settle_ms)
    }

    /// The version of a plugin that serves.
    pub(super) fn serving(&self, name: &str) -> Option<Arc<Plugin>> {
        self.table.load().active().get(name).cloned()
    }

    /// The plugins that serve since another one gave way, and of which nothing is kept yet: they are to be taken once more.
    pub(super) fn heirs(&self) -> Vec<String> {
        let Some(history) = self.history() else { return Vec::new() };
        let table = self.table.load();
        let heirs: Vec<String> = table.active().keys().filter(|name| !history.serves(name)).cloned().collect();
        let mut entries = self.entries();
        for heir in &heirs {
            entries.entry(heir.clone()).and_modify(|entry| entry.tried = None);
        }
        heirs
    }

    /// The types among these whose events another plugin is given, with its name: what a build would take from it.
    pub(super) fn taken_from_others(&self, name: &str, patterns: &[TypePattern]) -> Vec<TakenTypes> {
        let owners = self.reserved().over(&self.settled.load());
        let taken = patterns.iter().filter_map(|pattern| {
            let loser = owners.loser(name, pattern)?;
            Some(TakenTypes { types: pattern.clone(), plugin: loser.to_owned() })
        });
        taken.collect()
    }

    /// Keeps the types of a plugin for it that served before the host was started and is about to be loaded.
    pub(super) fn reserve(&self, name: &str) {
        if self.entries().get(name).is_some_and(|entry| entry.serving().is_some()) {
            return;
        }
        if let Some(patterns) = self.history().filter(|it| it.serves(name)).and_then(|it| it.types(name)) {
            self.reserved().add(name, patterns);
        }
    }

    /// What was reserved for a plugin is its own by what it serves, or free.
    pub(super) fn end_reservation(&self, name: &str) {
        let serves = self.serving(name).is_some();
        if self.reserved().loaded(name, serves) {
            self.swap(self.entries());
        }
    }

    pub(super) fn reserved(&self) -> MutexGuard<'_, ReservedPatterns> {
        self.reserved.lock()
    }

    pub(super) fn entries(&self) -> MutexGuard<'_, BTreeMap<String, PluginEntry>> {
        self.entries.lock()
    }
}

impl PluginEntry {
    fn status(&self, name: &str, serving: Option<&Plugin>) -> PluginReport {
        let held = self.held.as_ref().filter(|_| self.error.is_none());
        let error =
            self.error.clone().or_else(|| held.map(|held| held.words(serving))).or_else(|| self.refused.clone());
        let state = match (self.loading.is_some(), held, &error, serving) {
            (true, ..) => PluginStatus::Compiling,
            (false, Some(_), ..) => PluginStatus::NeedsApproval,
            (false, None, None, Some(_)) => PluginStatus::Active,
            (false, None, _, Some(_)) => PluginStatus::FailedKeptLastGood,
            (false, None, _, None) => PluginStatus::Failed,
        };
        PluginReport {
            rolled_back_from: self.rolled_back_from.clone(),
            needs_approval: held.map(NeedsApproval::of),
            ..PluginReport::new(name, state, error, serving)
        }
    }

    /// Whether the file in the directory was loaded, is held, or failed.
    pub(super) fn has_been_tried(&self) -> bool {
        self.loading.is_none() && (self.newest.is_some() || self.held.is_some() || self.error.is_some())
    }

    /// Takes a version that was loaded.
    pub(super) fn serve(&mut self, plugin: Arc<Plugin>, rolled_back_from: Option<String>) {
        self.error = None;
        self.held = None;
        self.last_good = self.serving().cloned();
        self.newest = Some(plugin);
        self.rolled_back_from = rolled_back_from;
    }

    /// Notes why what stands in the directory is not taken. Gives after what pause it is to be tried again, if that may
    /// help. `rescan` is the pause between two looks.
    pub(super) fn fail(&mut self, name: &str, error: &LoadError, rescan: Duration) -> Option<Duration> {
        let words = error.to_string();
        // What may pass is tried every few seconds, and told once.
        if self.error.as_ref() != Some(&words) {
            tracing::warn!(plugin.id = %name, "plugin not loaded: {words}");
        }
        self.error = Some(words);
        self.held = None;
        // Of settings that cannot be read it is not known what was tried with them.
        let pause = match error {
            LoadError::CompilerKilled(_) => self.pause_after_kill(rescan),
            _ => error.may_pass().then_some(Duration::ZERO),
        };
        if pause.is_some() || matches!(error, LoadError::Settings(_)) {
            self.tried = None;
        }
        pause
    }

    /// The kernel ends whoever takes much memory, be it for others' fault; a file that always takes it is given up.
    fn pause_after_kill(&mut self, rescan: Duration) -> Option<Duration> {
        let (digest, _) = self.tried.as_ref()?;
        let before = self.killed.as_ref().filter(|(killed, _)| killed == digest).map_or(0, |(_, times)| *times);
        self.killed = Some((digest.clone(), before + 1));
        (before < MAX_KILLS).then(|| rescan * (1 << before))
    }

    /// The version that serves, or would if no other plugin had its types.
    pub(super) fn serving(&self) -> Option<&Arc<Plugin>> {
        match self.refused {
            None => self.newest.as_ref(),
            Some(_) => self.last_good.as_ref(),
        }
    }
}

impl std::fmt::Debug for PluginRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("dir", &self.options.dir)
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}

fn is_new(plugin: &Arc<Plugin>, before: Option<&Arc<Plugin>>) -> bool {
    before.is_none_or(|before| !Arc::ptr_eq(plugin, before))
}
