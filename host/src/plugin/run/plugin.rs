//! One version of one component, ready to run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Component;

use super::executor::GuestExecutor;
use super::instance::{self, PreparedComponent};
use super::instance_pool::sweep;
use super::stopwatch::CpuMeter;
use crate::event::{AttemptFailure, FailureClass, RetryPolicies, Timestamp, TypePattern};
use crate::plugin::component::fit;
use crate::plugin::component::load_tracks::LoadTracks;
use crate::plugin::sandbox::ticker::EpochTicker;
use crate::plugin::settings::PluginSettings;
use crate::plugin::{AttemptInput, AttemptLimits, CompletedAttempt, Dialect, GuestJob, StateReader};

/// Packages that every toolchain imports and that give access to nothing but time and random numbers.
const HARMLESS_PACKAGES: [&str; 6] =
    ["wasi:io/", "wasi:clocks/", "wasi:random/", "wasi:cli/", "wasi:filesystem/", "wasi:sockets/"];

/// What all plugins of a registry run on. It ends when the last plugin is dropped.
#[derive(Debug)]
pub(in crate::plugin) struct GuestRuntime {
    // Declared before the ticker and so dropped first: without ticks a busy guest would delay the end of the executor.
    pub(in crate::plugin) executor: GuestExecutor,
    pub(in crate::plugin) ticker: EpochTicker,
    /// One permit for each memory that running attempts may use.
    pub(in crate::plugin) attempts: Arc<Semaphore>,
    /// Decides which plugin is loaded next.
    pub(in crate::plugin) tracks: LoadTracks,
}

/// Room in the sandbox for one attempt.
#[derive(Debug)]
pub struct AttemptPermit(Option<OwnedSemaphorePermit>);

/// One version of one component, ready to run.
pub struct Plugin {
    pub(in crate::plugin) name: Arc<str>,
    pub(in crate::plugin) digest: Arc<str>,
    /// The version that the component states.
    pub version: Option<String>,
    /// The description that the component states.
    pub description: Option<String>,
    pub(in crate::plugin) patterns: Vec<TypePattern>,
    /// How many attempts may run at once on one host; `None` for the default of the host.
    pub concurrency: Option<usize>,
    /// How many of its events may wait in the deployment; `None` for a fifth of the limit of the deployment.
    pub max_waiting: Option<u64>,
    /// How failed attempts are retried.
    pub policies: RetryPolicies,
    /// The settings that it was loaded with. They may hold secrets.
    pub(in crate::plugin) settings: PluginSettings,
    pub(in crate::plugin) size_bytes: u64,
    pub(in crate::plugin) loaded_at: Timestamp,
    pub(in crate::plugin) prepared: Arc<PreparedComponent>,
    pub(in crate::plugin) runtime: Arc<GuestRuntime>,
}

impl Plugin {
    /// The name: its file name without `.wasm`. Its lane has the same name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SHA-256 of the file, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The name and the digest, for records that share them.
    pub fn name_and_digest(&self) -> (Arc<str>, Arc<str>) {
        (self.name.clone(), self.digest.clone())
    }

    /// The patterns of the types that it handles. Another plugin with a more specific pattern takes precedence.
    pub fn patterns(&self) -> &[TypePattern] {
        &self.patterns
    }

    /// The interface by which it receives events.
    pub fn dialect(&self) -> Dialect {
        self.prepared.fit.handler.dialect()
    }

    /// Other interfaces by which it could receive events. They have a lower precedence and are not called.
    pub fn other_dialects(&self) -> &[Dialect] {
        &self.prepared.fit.other_dialects
    }

    /// The compiled code, to load the same file again with other settings.
    pub(in crate::plugin) fn compiled(&self) -> Component {
        self.prepared.fit.pre.component().clone()
    }

    /// The size of the file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The names of the interfaces that it imports.
    pub fn imports(&self) -> Vec<String> {
        let component = self.prepared.fit.pre.component();
        component.component_type().imports(component.engine()).map(|(name, _)| name.to_owned()).collect()
    }

    /// The interfaces that it imports, without versions and without [`HARMLESS_PACKAGES`]: what it may reach of the host.
    pub(in crate::plugin) fn capabilities(&self) -> BTreeSet<String> {
        let imports = self.imports();
        let names = imports.iter().map(|name| name.split('@').next().unwrap_or(name));
        names
            .filter(|name| !HARMLESS_PACKAGES.iter().any(|package| name.starts_with(package)))
            .map(str::to_owned)
            .collect()
    }

    /// The memory that an instance starts with.
    pub fn initial_memory_bytes(&self) -> u64 {
        fit::initial_memory_bytes(self.prepared.fit.pre.component()).unwrap_or(0)
    }

    /// The limits of one attempt.
    pub fn limits(&self) -> &AttemptLimits {
        &self.prepared.context.limits
    }

    /// The number of calls that were denied for want of a grant, by capability.
    pub fn denied(&self) -> BTreeMap<&'static str, u64> {
        self.prepared.context.network.denials.counts()
    }

    /// Like [`Plugin::handle_here`], but may be called on any thread.
    pub async fn handle(self: &Arc<Self>, attempt: AttemptInput, state: Arc<dyn StateReader>) -> CompletedAttempt {
        let plugin = self.clone();
        let run =
            move |meter| async move { plugin.handle_here(plugin.acquire_permit().await, attempt, state, meter).await };
        self.runtime.executor.run(run).await.unwrap_or_else(|| self.host_failure())
    }

    /// Waits until the sandbox has room for one more attempt. Waiting does not count towards the attempt's deadline. Cancel
    /// safe.
    pub async fn acquire_permit(&self) -> AttemptPermit {
        AttemptPermit(self.runtime.attempts.clone().acquire_many_owned(self.prepared.fit.memories).await.ok())
    }

    /// Handles one event on the current guest thread. Call it only within a [`crate::plugin::GuestJob`] and pass its meter.
    ///
    /// The instance is fresh unless the plugin's settings allow reuse; it reads plugin state from `state`. Never fails:
    /// whatever the guest does is an outcome. Dropping the future cancels the attempt.
    pub async fn handle_here(
        &self,
        permit: AttemptPermit,
        attempt: AttemptInput,
        state: Arc<dyn StateReader>,
        meter: Arc<CpuMeter>,
    ) -> CompletedAttempt {
        let AttemptPermit(Some(_permit)) = permit else { return trapped("the sandbox has ended") };
        meter.set_plugin(&self.name);
        let _ticking = self.runtime.ticker.ticking();
        let run = instance::run_attempt(self.prepared.clone(), attempt, state, meter);
        let result = AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| self.host_failure());
        if self.prepared.pool.needs_sweep() {
            let pool = Arc::downgrade(&self.prepared.pool);
            self.runtime.executor.spawn(GuestJob::new(|_| sweep(pool)));
        }
        result
    }

    fn host_failure(&self) -> CompletedAttempt {
        tracing::error!(plugin.id = %self.name, "an attempt made the host panic; the plugin should be removed");
        trapped("the host failed to run the attempt")
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .field("patterns", &self.patterns)
            .finish_non_exhaustive()
    }
}

fn trapped(message: &str) -> CompletedAttempt {
    CompletedAttempt::failed(AttemptFailure::new(FailureClass::Trap, message))
}
