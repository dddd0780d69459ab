//! The plugins of a host and the routing of events to them.
//!
//! Readers take the routing without a lock, since it is replaced as a whole. Changes are made under the lock of the
//! entries, one at a time; loading happens outside of it. A file that cannot be loaded changes only the reported status.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::directory::{self, ExpectedPlugins};
use super::directory_scan::DirectoryScan;
use super::entry::{PluginEntry, short_digest};
use super::options::{RegistryError, RegistryOptions};
use super::report::RemovalRecord;
use super::routing::RouteTable;
use super::unmatched::UnmatchedItems;
use crate::event::EventType;
use crate::plugin::component::loader::PluginLoader;
use crate::plugin::data_dir::PluginDataDir;
use crate::plugin::data_dir::pattern_owners::PatternOwners;
use crate::plugin::{GuestJob, Plugin};
use crate::plugin_report::PluginReport;

/// The plugins of a host and the routing of events to them.
pub struct PluginRegistry {
    options: RegistryOptions,
    pub(super) loader: PluginLoader,
    pub(super) table: ArcSwap<RouteTable>,
    /// The owners of patterns, who take precedence over plugins that name the same patterns later. During the start, the
    /// owners are those of the run before, so the order of loading does not matter.
    pub(super) owners: Arc<ArcSwap<PatternOwners>>,
    pub(super) expected: ExpectedPlugins,
    pub(super) is_started: AtomicBool,
    entries: Mutex<BTreeMap<String, PluginEntry>>,
    pub(super) directory: tokio::sync::Mutex<DirectoryScan>,
    pub(super) removed: RemovalRecord,
    pub(super) unmatched: Mutex<UnmatchedItems>,
    /// Held during a rollback, so that only one runs at a time.
    pub(super) rollback_lock: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
    /// How many plugins are being loaded of which no version serves.
    pub(super) preparing: watch::Sender<usize>,
}

impl PluginRegistry {
    /// Sets the sandbox up and loads the plugins in the directory. A file that cannot be loaded is no error: its status
    /// says why.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn open(options: RegistryOptions) -> Result<Arc<Self>, RegistryError> {
        let registry = Self::prepare(options).await?;
        registry.load_all().await;
        Ok(registry)
    }

    /// Sets the sandbox up and loads nothing yet; [`PluginRegistry::load_all`] must follow, once. Until it has ended,
    /// only exact patterns are routed: `order.*` may give way to a plugin that is not loaded yet.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn prepare(mut options: RegistryOptions) -> Result<Arc<Self>, RegistryError> {
        let attempts = options.concurrency.max(1).saturating_add(options.reserve);
        let unreadable = |source| RegistryError::Directory { dir: options.dir.clone(), source };
        if options.may_make_dir {
            fs::create_dir_all(&options.dir).map_err(unreadable)?;
        }
        fs::read_dir(&options.dir).map_err(unreadable)?;

        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut loader = PluginLoader::start(&options, attempts, threads)?;
        options.concurrency = options.granted_concurrency(loader.sandbox.capacity)?;
        let (data_dir, owners) = open_data_dir(&options, &loader).await?.unzip();
        loader.data_dir = data_dir.map(Arc::new);
        directory::warn_of_foreign_writers(&options.dir);
        let (dir, settings) = (options.dir.clone(), options.settings.clone());
        let expected = loader.runtime.executor.run_blocking(move || ExpectedPlugins::read(&dir, &settings)).await;
        let expected = expected.unwrap_or_default();
        let owners = owners.flatten().unwrap_or_else(|| PatternOwners::at_first_start(expected.names.clone()));
        let registry = Arc::new(Self {
            loader,
            table: ArcSwap::default(),
            owners: Arc::new(ArcSwap::from_pointee(owners)),
            expected,
            is_started: AtomicBool::new(false),
            entries: Mutex::default(),
            directory: tokio::sync::Mutex::default(),
            removed: RemovalRecord::default(),
            unmatched: Mutex::default(),
            rollback_lock: tokio::sync::Mutex::default(),
            changes: watch::channel(0).0,
            // The start counts as one plugin: it is not known yet which types will be handled.
            preparing: watch::channel(1).0,
            options,
        });
        // A first start that is cut short is repeated as such.
        registry.save_owners().await;
        Ok(registry)
    }

    /// How many attempts may run side by side: the number of the options, or fewer in a small address space.
    pub fn concurrency(&self) -> usize {
        self.options.concurrency
    }

    /// The plugin for a type: the one with the most specific pattern that matches.
    pub fn route(&self, event_type: &EventType) -> Option<Arc<Plugin>> {
        let table = self.table.load();
        if self.is_starting() { table.route_exact(event_type) } else { table.route(event_type) }.cloned()
    }

    /// The plugins that serve now, by name.
    pub fn serving_plugins(&self) -> Vec<Arc<Plugin>> {
        self.table.load().serving().values().cloned().collect()
    }

    /// Runs the jobs that `next` returns on the threads of guests, until it returns none. Quick jobs run one after another
    /// without a hand-over. A job that waits or uses much CPU continues in its own task. `next` and the jobs are dropped on
    /// those threads, so they must not be the last owner of the registry.
    pub fn run_jobs(&self, next: impl FnMut() -> Option<GuestJob> + Send + 'static) {
        self.loader.runtime.executor.run_jobs(next);
    }

    /// Runs one job on the threads of guests, under the same conditions as [`PluginRegistry::run_jobs`].
    pub fn spawn_job(&self, job: GuestJob) {
        self.loader.runtime.executor.spawn(job);
    }

    /// How many threads begin jobs.
    pub fn threads(&self) -> usize {
        self.loader.runtime.executor.threads()
    }

    /// Whether a plugin is being loaded of which no version serves. The types that it will handle are not known.
    pub fn is_preparing(&self) -> bool {
        *self.preparing.borrow() > 0
    }

    /// The number of such plugins, to wait for the end of [`PluginRegistry::is_preparing`].
    pub fn preparing(&self) -> watch::Receiver<usize> {
        self.preparing.subscribe()
    }

    /// Changes whenever a plugin was replaced, added or removed, and when the start is over.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn note_change(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// A report on every plugin in the directory and on those that went, by name.
    pub fn statuses(&self) -> Vec<PluginReport> {
        let table = self.table.load();
        let entries = self.entries();
        let present = entries.iter().map(|(name, entry)| PluginReport::of(name, entry, table.serving().get(name)));
        let gone = self.removed.all();
        let gone = gone.iter().filter(|(name, _)| !entries.contains_key(*name));
        let mut statuses: Vec<PluginReport> =
            present.chain(gone.map(|(name, at)| PluginReport::removed(name, *at))).collect();
        statuses.sort_by(|one, other| one.name.cmp(&other.name));
        statuses
    }

    /// The files in the directory and the sections of the settings that match no plugin, in words.
    pub fn unmatched(&self) -> Vec<String> {
        self.unmatched.lock().reported()
    }

    /// The report on one plugin.
    pub fn status(&self, name: &str) -> Option<PluginReport> {
        self.statuses().into_iter().find(|status| status.name == name)
    }

    /// Computes the routing from the entries and puts it in force. Logs each version that begins to serve.
    pub(super) fn update_routing(&self, mut entries: MutexGuard<'_, BTreeMap<String, PluginEntry>>) {
        let versions = entries.iter().map(|(name, entry)| (name.clone(), entry.versions())).collect();
        let (table, mut conflicts) = RouteTable::build(&versions, &self.owners.load());
        let before = self.table.load_full();
        for (name, entry) in entries.iter_mut() {
            let conflict = conflicts.remove(name);
            if entry.set_conflict(conflict.clone())
                && let Some(words) = conflict
            {
                tracing::warn!(plugin.id = %name, "plugin not used: {words}");
            }
            let serving = table.serving().get(name);
            if let Some(plugin) = serving.filter(|plugin| is_new(plugin, before.serving().get(name))) {
                log_loaded(name, plugin);
            }
        }
        self.table.store(Arc::new(table));
        if !self.is_starting() {
            self.confirm_owners(&entries);
        }
        drop(entries);
        self.note_change();
    }

    pub(super) fn options(&self) -> &RegistryOptions {
        &self.options
    }

    /// For how long a file must stay unchanged before it is loaded.
    pub(super) fn quiet_time(&self) -> Duration {
        Duration::from_millis(self.options.quiet_ms)
    }

    /// The pause between two scans of the directory.
    pub(super) fn rescan_pause(&self) -> Duration {
        Duration::from_millis(self.options.rescan_ms)
    }

    /// The version of a plugin that the routing uses.
    pub(super) fn serving(&self, name: &str) -> Option<Arc<Plugin>> {
        self.table.load().serving().get(name).cloned()
    }

    /// The version of a plugin that serves, or would if no other plugin had its types.
    pub(super) fn chosen_version(&self, name: &str) -> Option<Arc<Plugin>> {
        self.entries().get(name).and_then(|entry| entry.serving().cloned())
    }

    pub(super) fn entries(&self) -> MutexGuard<'_, BTreeMap<String, PluginEntry>> {
        self.entries.lock()
    }

    /// The names of the plugins that went.
    pub(super) fn removed_names(&self) -> BTreeSet<String> {
        self.removed.all().into_keys().collect()
    }
}

impl std::fmt::Debug for PluginRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginRegistry")
            .field("dir", &self.options.dir)
            .field("serving", &self.serving_plugins())
            .finish_non_exhaustive()
    }
}

/// Opens the data directory of the options. One that is not private is not used, with a warning: everything works, but is
/// done anew at each start.
///
/// # Errors
/// [`RegistryError::NothingKept`], if an option needs the directory.
async fn open_data_dir(
    options: &RegistryOptions,
    loader: &PluginLoader,
) -> Result<Option<(PluginDataDir, Option<PatternOwners>)>, RegistryError> {
    let opened = match options.data_dir.clone() {
        None => Err(None),
        Some(dir) => {
            let (engine, max_bytes) = (loader.sandbox.engine.clone(), options.cache_max_bytes);
            let plugins = options.dir.clone();
            let open = move || PluginDataDir::open(&dir, &plugins, &engine, max_bytes);
            let opened = loader.runtime.executor.run_blocking(open).await;
            let failed = || Err("the host failed to open it".to_owned());
            opened.map_or_else(failed, |opened| opened.map_err(|error| error.to_string())).map_err(Some)
        }
    };
    match opened {
        Ok(data_dir) => Ok(Some(data_dir)),
        Err(error) if options.hold_new_capabilities => {
            Err(RegistryError::NothingKept(error.unwrap_or_else(|| "it is empty".into())))
        }
        Err(error) => {
            if let Some(error) = error {
                tracing::warn!(
                    "nothing of plugins is kept in plugins.data_dir: each is compiled at every start, and none can be \
                     rolled back: {error}"
                );
            }
            Ok(None)
        }
    }
}

fn log_loaded(name: &str, plugin: &Plugin) {
    let types: Vec<String> = plugin.patterns().iter().map(ToString::to_string).collect();
    let digest = short_digest(plugin.digest());
    tracing::info!(plugin.id = %name, plugin.digest = %digest, "plugin loaded for {}", types.join(", "));
    if let [first, ..] = plugin.other_dialects() {
        let (used, first) = (plugin.dialect().interface(), first.interface());
        tracing::warn!(plugin.id = %name, "plugin is called by {used}; it also exports {first}, which is not");
    }
}

fn is_new(plugin: &Arc<Plugin>, before: Option<&Arc<Plugin>>) -> bool {
    before.is_none_or(|before| !Arc::ptr_eq(plugin, before))
}
