//! The host's side of an instance: what a guest holds of the host, and what its attempt has done so far.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::eventstream::plugin as wit;
use super::denials::DenialLog;
use super::handles::held_bytes;
use super::http::{HttpNetwork, OutgoingHttp};
use super::output::AttemptOutput;
use super::publish_buffer::PublishBuffer;
use super::state_buffer::StateBuffer;
use super::state_reader::{NoState, StateReader};
use super::stdio::GuestStream;
use crate::event::{AttemptEffects, AttemptFailure, Event, FailureClass};
use crate::plugin::AttemptLimits;
use crate::plugin::run::outcome;
use crate::plugin::run::stopwatch::AttemptStopwatch;
use crate::plugin::sandbox::limits::MemoryLimiter;
use crate::plugin::settings::secrets::PluginSecrets;

/// The most handles to host objects, such as streams and pollables, that an instance may hold. A request takes ten.
///
/// The bytes that a guest passes to the host are counted, with two exceptions that this limit bounds. The headers of an
/// object take up to 32 KiB, so 8 MiB in all. Unsent data takes up to 128 KiB for each body and its three handles, so 11 MiB.
const MAX_HANDLES: usize = 256;
/// The most handles that an idle instance may hold. Standard streams and language runtimes take about a dozen.
const MAX_IDLE_HANDLES: usize = 32;
/// The most bytes that the objects of an idle instance may hold, because each attempt may add as much again.
const MAX_IDLE_BYTES: usize = 256 * 1_024;
/// The most random bytes in one call.
const MAX_RANDOM_BYTES: u64 = 64 * 1_024;

/// What all attempts of one version of a plugin share.
#[derive(Debug)]
pub(in crate::plugin) struct HostContext {
    /// The name of the plugin.
    pub(in crate::plugin) name: String,
    /// The limits of an attempt.
    pub(in crate::plugin) limits: AttemptLimits,
    /// The answer of `delivery.max-attempts`.
    pub(in crate::plugin) max_attempts: u32,
    /// The table `config` of its settings.
    pub(in crate::plugin) config: BTreeMap<String, String>,
    /// Its secrets. They must appear in nothing that others see.
    pub(in crate::plugin) secrets: Arc<PluginSecrets>,
    /// The calls that were denied for want of a grant.
    pub(in crate::plugin) denials: Arc<DenialLog>,
    /// Its outgoing HTTP.
    pub(in crate::plugin) network: Arc<HttpNetwork>,
}

/// The input of one attempt.
pub(in crate::plugin) struct AttemptContext {
    /// The event.
    pub(in crate::plugin) event: Arc<Event>,
    /// 1 for the first attempt since the event was accepted or last replayed.
    pub(in crate::plugin) attempt: u32,
    /// Measures the attempt.
    pub(in crate::plugin) stopwatch: Arc<AttemptStopwatch>,
    /// Reads the plugin's state.
    pub(in crate::plugin) state: Arc<dyn StateReader>,
}

/// The host's side of an instance.
pub(in crate::plugin) struct GuestState {
    pub(in crate::plugin) limiter: MemoryLimiter,
    pub(in crate::plugin) context: Arc<HostContext>,
    pub(in crate::plugin) output: Arc<AttemptOutput>,
    pub(in crate::plugin) current: CurrentAttempt,
    /// Made when the guest first calls WASI. Most guests never do, and it costs as much as a small call.
    wasi: Option<WasiCtx>,
    pub(in crate::plugin) table: ResourceTable,
    /// Whether handles of the guest were dropped, so that it may hold dead ones.
    has_lost_handles: bool,
}

/// What belongs to the current attempt of an instance.
pub(in crate::plugin) struct CurrentAttempt {
    pub(in crate::plugin) event: Arc<Event>,
    pub(in crate::plugin) attempt: u32,
    pub(in crate::plugin) stopwatch: Arc<AttemptStopwatch>,
    pub(in crate::plugin) publishing: PublishBuffer,
    pub(super) state: StateBuffer,
    pub(super) outgoing: OutgoingHttp,
}

impl CurrentAttempt {
    fn new(context: &HostContext, AttemptContext { event, attempt, stopwatch, state }: AttemptContext) -> Self {
        Self {
            publishing: PublishBuffer::default(),
            state: StateBuffer::new(state),
            outgoing: OutgoingHttp::new(context.network.clone(), event.id),
            event,
            attempt,
            stopwatch,
        }
    }
}

impl GuestState {
    /// The host's side of a new instance. Logs and standard streams go to `output`.
    pub(in crate::plugin) fn new(
        context: Arc<HostContext>,
        output: Arc<AttemptOutput>,
        attempt: AttemptContext,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            limiter: MemoryLimiter::new(&context.limits),
            current: CurrentAttempt::new(&context, attempt),
            context,
            output,
            wasi: None,
            table,
            has_lost_handles: false,
        }
    }

    /// Begins another attempt in the same instance. Only the objects that the guest holds stay from the last one.
    pub(in crate::plugin) fn begin(&mut self, attempt: AttemptContext) {
        self.output.begin(attempt.event.id);
        self.current = CurrentAttempt::new(&self.context, attempt);
    }

    /// Whether the instance can handle another event as well as a new one could. It must use less than half of its memory
    /// limit and hold few host objects.
    pub(in crate::plugin) fn is_reusable(&mut self) -> bool {
        if self.has_lost_handles || !self.limiter.has_ample_room() {
            return false;
        }
        let (mut handles, mut size_bytes) = (0, 0);
        for object in self.table.iter_mut() {
            handles += 1;
            size_bytes += held_bytes(object);
        }
        handles <= MAX_IDLE_HANDLES && size_bytes <= MAX_IDLE_BYTES
    }

    /// The most handles that the store may allow.
    pub(in crate::plugin) fn max_handles() -> usize {
        MAX_HANDLES
    }

    /// The limits of an attempt.
    pub(in crate::plugin) fn limits(&self) -> &AttemptLimits {
        &self.context.limits
    }

    /// Drops all host objects of the guest. It must not be called again afterwards.
    pub(in crate::plugin) fn drop_handles(&mut self) {
        self.table = ResourceTable::new();
        self.has_lost_handles = true;
    }

    /// Takes what the guest published, read and wrote.
    ///
    /// # Errors
    /// The attempt fails because a publish was refused, or because the plugin would keep too much state.
    pub(in crate::plugin) fn take_effects(&mut self) -> Result<AttemptEffects, AttemptFailure> {
        let output = |words| AttemptFailure::new(FailureClass::Output, outcome::cut_message(words));
        let published = std::mem::take(&mut self.current.publishing).into_published().map_err(output)?;
        let state = std::mem::replace(&mut self.current.state, StateBuffer::new(Arc::new(NoState)));
        let HostContext { name, limits, .. } = &*self.context;
        let state = state
            .into_step(name, limits.state_bytes)
            .map_err(|words| AttemptFailure::new(FailureClass::Limit, words))?;
        Ok(AttemptEffects { result: None, published, state })
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Self { wasi, output, table, .. } = self;
        let build = || {
            WasiCtx::builder()
                .stdout(GuestStream::out(output.clone()))
                .stderr(GuestStream::err(output.clone()))
                .max_random_size(MAX_RANDOM_BYTES)
                .build()
        };
        WasiCtxView { ctx: wasi.get_or_insert_with(build), table }
    }
}

impl wit::types::Host for GuestState {}
