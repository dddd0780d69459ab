//! One version of one component, ready to run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::Component;

use super::cpu_meter::CpuMeter;
use super::guest_runtime::GuestRuntime;
use super::instance::{self, PreparedComponent};
use super::instance_pool::sweep;
use crate::event::{AttemptFailure, AttemptOutcome, FailureClass, RetryPolicies, Timestamp, TypePattern};
use crate::plugin::component::fit;
use crate::plugin::settings::PluginSettings;
use crate::plugin::{AttemptInput, AttemptLimits, AttemptResult, Dialect, GuestJob, StateReader};

/// Packages that every toolchain imports, and that give every plugin the same: time and chance, or nothing at all.
const HARMLESS: [&str; 6] =
    ["wasi:io/", "wasi:clocks/", "wasi:random/", "wasi:cli/", "wasi:filesystem/", "wasi:sockets/"];

/// Room in the sandbox for one attempt.
#[derive(Debug)]
pub struct AttemptPermit(Option<OwnedSemaphorePermit>);

/// One version of one component, ready to run.
pub struct Plugin {
    pub(in crate::plugin) name: Arc<str>,
    pub(in crate::plugin) digest: Arc<str>,
    pub(in crate::plugin) version: Option<String>,
    pub(in crate::plugin) description: Option<String>,
    pub(in crate::plugin) patterns: Vec<TypePattern>,
    pub(in crate::plugin) concurrency: Option<usize>,
    pub(in crate::plugin) max_waiting: Option<u64>,
    pub(in crate::plugin) policies: RetryPolicies,
    /// What it was loaded with; may hold secrets.
    pub(in crate::plugin) settings: PluginSettings,
    pub(in crate::plugin) size_bytes: u64,
    pub(in crate::plugin) loaded_at: Timestamp,
    pub(in crate::plugin) prepared: Arc<PreparedComponent>,
    pub(in crate::plugin) machine: Arc<GuestRuntime>,
}

impl Plugin {
    /// The name: that of its file without `.wasm`. Also the name of its lane.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SHA-256 of the file, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The name and the digest, shared with whoever keeps them.
    pub fn names(&self) -> (Arc<str>, Arc<str>) {
        (self.name.clone(), self.digest.clone())
    }

    /// The patterns of the types that it handles, if no other plugin has a more specific one.
    pub fn patterns(&self) -> &[TypePattern] {
        &self.patterns
    }

    /// The version that it says it has.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What it says it does.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The interface by which it takes events.
    pub fn dialect(&self) -> Dialect {
        self.prepared.fit().handler.dialect()
    }

    /// The interfaces by which it could take events as well, which come after that one and are not called.
    pub fn other_dialects(&self) -> &[Dialect] {
        &self.prepared.fit().other_dialects
    }

    /// Its code, for another version of the same file.
    pub(in crate::plugin) fn compiled(&self) -> Component {
        self.prepared.fit().pre.component().clone()
    }

    /// The size of its file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The interfaces that it imports, as it names them.
    pub fn imports(&self) -> Vec<String> {
        let component = self.prepared.fit().pre.component();
        component.component_type().imports(component.engine()).map(|(name, _)| name.to_owned()).collect()
    }

    /// What it can ask of the host: the interfaces that it imports, whatever their versions, without those by which nothing
    /// beyond the instance can be reached.
    pub(in crate::plugin) fn capabilities(&self) -> BTreeSet<String> {
        let imports = self.imports();
        let names = imports.iter().map(|name| name.split('@').next().unwrap_or(name));
        names.filter(|name| !HARMLESS.iter().any(|package| name.starts_with(package))).map(str::to_owned).collect()
    }

    /// The largest memory that an instance starts with.
    pub fn initial_memory_bytes(&self) -> u64 {
        fit::initial_memory_bytes(self.prepared.fit().pre.component()).unwrap_or(0)
    }

    /// How many attempts may run side by side on one host; `None` for as many as the host has slots.
    pub fn concurrency(&self) -> Option<usize> {
        self.concurrency
    }

    /// How many of its events may wait in the deployment; `None` for a fifth of what may wait in all.
    pub fn max_waiting(&self) -> Option<u64> {
        self.max_waiting
    }

    /// What one attempt may use.
    pub fn limits(&self) -> &AttemptLimits {
        &self.prepared.context.limits
    }

    /// How many calls were denied for want of a grant, by capability.
    pub fn denied(&self) -> BTreeMap<&'static str, u64> {
        self.prepared.context.denials.counts()
    }

    /// How failures of this plugin are tried again.
    pub fn policies(&self) -> &RetryPolicies {
        &self.policies
    }

    /// Handles one event in an instance that reads its state from `state`, from whichever thread this is called.
    /// Otherwise like [`Plugin::handle_here`].
    pub async fn handle(self: &Arc<Self>, attempt: AttemptInput, state: Arc<dyn StateReader>) -> AttemptResult {
        let plugin = self.clone();
        let run =
            move |meter| async move { plugin.handle_here(plugin.acquire_permit().await, attempt, state, meter).await };
        self.machine.executor.run(run).await.unwrap_or_else(|| self.broken())
    }

    /// Waits until the sandbox has room for one more attempt, which is no time of the attempt. Dropping the future takes
    /// none.
    pub async fn acquire_permit(&self) -> AttemptPermit {
        AttemptPermit(self.machine.attempts.clone().acquire_many_owned(self.prepared.fit().memories).await.ok())
    }

    /// Handles one event in an instance, a fresh one unless the plugin's settings say otherwise, on a thread of the
    /// guests: only within a [`crate::plugin::Job`], with its meter. Never fails: whatever the guest does is an outcome. Dropping
    /// the future cancels the attempt.
    pub async fn handle_here(
        &self,
        room: AttemptPermit,
        attempt: AttemptInput,
        state: Arc<dyn StateReader>,
        meter: Arc<CpuMeter>,
    ) -> AttemptResult {
        let AttemptPermit(Some(_permit)) = room else { return broken("the sandbox has ended") };
        meter.belongs_to(&self.name);
        let _ticking = self.machine.ticker.ticking();
        let run = instance::attempt(self.prepared.clone(), attempt, state, meter);
        let completed = AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| self.broken());
        if self.prepared.idle.needs_sweeping() {
            let idle = Arc::downgrade(&self.prepared.idle);
            self.machine.executor.work(GuestJob::new(|_| sweep(idle)));
        }
        completed
    }

    fn broken(&self) -> AttemptResult {
        tracing::error!(plugin.id = %self.name, "an attempt made the host panic; the plugin should be removed");
        broken("the host failed to run the attempt")
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

fn broken(message: &str) -> AttemptResult {
    let outcome = AttemptOutcome::Failed(AttemptFailure::new(FailureClass::Trap, message));
    AttemptResult { outcome, log: Vec::new(), log_lines_dropped: 0, stderr: None }
}
