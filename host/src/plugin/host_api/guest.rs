//! The host's side of an instance: what a guest holds of the host, and what its attempt has done so far.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::http::{HttpNetwork, OutgoingHttp};
use super::output::{GuestOutput, GuestStream};
use super::publish_buffer::PublishBuffer;
use super::state::{NoState, StateBuffer, StateReader};
use crate::event::{AttemptEffects, AttemptFailure, FailureClass};
use crate::plugin::run::outcome;
use crate::plugin::run::stopwatch::AttemptStopwatch;
use crate::plugin::sandbox::limits::MemoryLimiter;
use crate::plugin::settings::secrets::PluginSecrets;
use crate::plugin::{AttemptInput, AttemptLimits};

/// The most handles to host objects, such as streams and pollables, that an instance may hold. A request takes ten.
///
/// The bytes that a guest passes to the host are counted, with two exceptions that this limit bounds. The headers of an
/// object take up to 32 KiB, so 8 MiB in all. Unsent data takes up to 128 KiB for each body and its three handles, so 11 MiB.
pub const MAX_HANDLES: usize = 256;
/// The most handles that an idle instance may hold. Standard streams and language runtimes take about a dozen.
const MAX_IDLE_HANDLES: usize = 32;
/// The most bytes that the objects of an idle instance may hold, because each attempt may add as much again.
const MAX_IDLE_BYTES: usize = 256 * 1_024;
/// The most random bytes in one call.
const MAX_RANDOM_BYTES: u64 = 64 * 1_024;

/// What all attempts of one version of a plugin share.
pub struct HostContext {
    pub name: String,
    pub limits: AttemptLimits,
    /// The answer of `delivery.max-attempts`.
    pub max_attempts: u32,
    /// The table `config` of its settings.
    pub config: BTreeMap<String, String>,
    /// Its secrets. They must appear in nothing that others see.
    pub secrets: Arc<PluginSecrets>,
    pub network: Arc<HttpNetwork>,
}

/// The host's side of an instance.
pub struct InstanceHost {
    pub limiter: MemoryLimiter,
    pub context: Arc<HostContext>,
    pub output: Arc<GuestOutput>,
    pub current: CurrentAttempt,
    /// Made when the guest first calls WASI. Most guests never do, and it costs as much as a small call.
    wasi: Option<WasiCtx>,
    pub table: ResourceTable,
    /// Whether handles of the guest were dropped, so that it may hold dead ones.
    has_lost_handles: bool,
}

/// What belongs to the current attempt of an instance.
pub struct CurrentAttempt {
    pub input: AttemptInput,
    pub stopwatch: Arc<AttemptStopwatch>,
    pub publishing: PublishBuffer,
    pub(super) state: StateBuffer,
    pub(super) outgoing: OutgoingHttp,
}

impl CurrentAttempt {
    /// An attempt that has done nothing yet. It reads the plugin's state from `state`.
    pub fn new(
        context: &HostContext,
        input: AttemptInput,
        stopwatch: Arc<AttemptStopwatch>,
        state: Arc<dyn StateReader>,
    ) -> Self {
        Self {
            publishing: PublishBuffer::default(),
            state: StateBuffer::new(state),
            outgoing: OutgoingHttp::new(context.network.clone(), input.event.id),
            input,
            stopwatch,
        }
    }
}

impl InstanceHost {
    /// The host's side of a new instance. Logs and standard streams go to `output`.
    pub fn new(context: Arc<HostContext>, output: Arc<GuestOutput>, current: CurrentAttempt) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            limiter: MemoryLimiter::new(&context.limits),
            context,
            output,
            current,
            wasi: None,
            table,
            has_lost_handles: false,
        }
    }

    /// Begins another attempt in the same instance. Only the objects that the guest holds stay from the last one.
    pub fn begin(&mut self, attempt: CurrentAttempt) {
        self.output.begin(attempt.input.event.id);
        self.current = attempt;
    }

    /// Whether the instance can handle another event as well as a new one could. It must use less than half of its memory
    /// limit and hold few host objects.
    pub fn is_reusable(&mut self) -> bool {
        if self.has_lost_handles || !self.limiter.has_ample_room() {
            return false;
        }
        let (mut handles, mut size_bytes) = (0, 0);
        for object in self.table.iter_mut() {
            handles += 1;
            size_bytes += kept_bytes(object);
        }
        handles <= MAX_IDLE_HANDLES && size_bytes <= MAX_IDLE_BYTES
    }

    /// Drops all host objects of the guest. Do not call the guest again.
    pub fn drop_handles(&mut self) {
        self.table = ResourceTable::new();
        self.has_lost_handles = true;
    }

    /// Takes what the guest published, read and wrote.
    ///
    /// # Errors
    /// The attempt fails because a publish was refused, or because the plugin would keep too much state.
    pub fn take_effects(&mut self) -> Result<AttemptEffects, AttemptFailure> {
        let refused = |words| AttemptFailure::new(FailureClass::Output, outcome::cut_message(words));
        let published = std::mem::take(&mut self.current.publishing).into_published().map_err(refused)?;
        let state = std::mem::replace(&mut self.current.state, StateBuffer::new(Arc::new(NoState)));
        let HostContext { name, limits, .. } = &*self.context;
        let state = state.into_step(name, limits.state_bytes);
        let state = state.map_err(|words| AttemptFailure::new(FailureClass::Limit, words))?;
        Ok(AttemptEffects { result: None, published, state })
    }
}

impl WasiView for InstanceHost {
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

/// A client of `wasi:messaging`, which has no state: there is one place to send to.
#[derive(Debug)]
pub struct MessagingClient;

/// A message on its way to a handler, or made by one.
#[derive(Debug, Default)]
pub struct GuestMessage {
    pub topic: Option<String>,
    pub content_type: Option<String>,
    pub data: Vec<u8>,
    pub metadata: Option<Vec<(String, String)>>,
}

impl GuestMessage {
    fn size_bytes(&self) -> usize {
        let pairs = self.metadata.iter().flatten();
        let pairs = pairs.map(|(name, value)| size_of::<(String, String)>() + name.len() + value.len());
        let texts = [&self.topic, &self.content_type].into_iter().flatten().map(String::len);
        self.data.len() + texts.chain(pairs).sum::<usize>()
    }
}

/// The options of a `wasi:messaging` request. Requests are not offered, so they have no effect.
#[derive(Debug)]
pub struct RequestOptions;

/// A handle to the plugin's own state.
pub struct StateBucket;

/// A state key that was read for a compare-and-swap.
pub struct SwapHandle {
    pub(super) state_key: String,
    pub(super) seen: Option<Vec<u8>>,
}

impl SwapHandle {
    fn size_bytes(&self) -> usize {
        self.state_key.len() + self.seen.as_ref().map_or(0, Vec::len)
    }
}

/// How many bytes of a guest an object keeps. Zero for objects that are bounded otherwise.
fn kept_bytes(object: &dyn Any) -> usize {
    let message = object.downcast_ref().map(GuestMessage::size_bytes);
    message.or_else(|| object.downcast_ref().map(SwapHandle::size_bytes)).unwrap_or(0)
}
