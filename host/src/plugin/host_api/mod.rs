//! What a guest is offered: one file for each interface of `wit/`, WASI 0.2 with nothing granted, and HTTP to where the
//! operator lets it.
//!
//! A [`Guest`] is the host's side of one attempt. Of the functions here only those that read state wait for anything, and
//! none trusts what a guest passes: what is wrong is answered, and what is too much ends the attempt.

pub(super) mod bindings;
mod config;
mod delivery;
mod denials;
mod foreign;
mod http;
mod keyvalue;
mod log;
mod output;
mod publisher;
mod secrets;
mod standards;
mod state;
pub(super) mod state_reader;
mod stdio;

pub use foreign::{GuestMessage, MessagingClient, RequestOptions};
pub use http::{HttpGrant, HttpGrants};

pub(super) use denials::DenialLog;
pub(super) use http::{HttpNetwork, SharedNetwork};
pub(super) use output::AttemptOutput;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use self::bindings::Offered;
use self::bindings::eventstream::plugin as wit;
use self::http::OutgoingHttp;
use self::publisher::PublishBuffer;
use self::state::StateBuffer;
use self::state_reader::NoState;
use super::StateReader;
use super::run::outcome;
use super::run::stopwatch::AttemptStopwatch;
use super::sandbox::limits::{AttemptLimits, MemoryLimiter};
use super::settings::secrets::PluginSecrets;
use crate::event::{AttemptEffects, AttemptFailure, Event, FailureClass};

/// The most handles to host objects (streams, pollables) that an instance may hold. A request that is under way takes ten,
/// and an attempt sends a few. What objects hold of a guest's is counted, but for the headers of each (32 KiB) and what
/// waits to be sent (128 KiB for each body, which is three handles), so that this bounds both: by 8 MiB and by 11.
const MAX_HANDLES: usize = 256;
/// The most of them with which an instance may wait for its next event. Standard streams and what a runtime holds for
/// itself are a dozen.
const MAX_WAITING_HANDLES: usize = 32;
/// The most that the objects behind them may hold then: each attempt may hand as much over anew.
const MAX_WAITING_BYTES: usize = 256 * 1_024;
/// The most random bytes in one call.
const MAX_RANDOM_BYTES: u64 = 64 * 1_024;

/// What every attempt at a plugin's events needs to know of it.
#[derive(Debug)]
pub(super) struct HostContext {
    /// The name of the plugin.
    pub(super) name: String,
    /// What its attempts may use.
    pub(super) limits: AttemptLimits,
    /// What `delivery.max-attempts` says.
    pub(super) max_attempts: u32,
    /// The operator's settings for it.
    pub(super) config: BTreeMap<String, String>,
    /// What it may know and nobody else.
    pub(super) secrets: Arc<PluginSecrets>,
    /// What it asked for and was not granted.
    pub(super) denials: Arc<DenialLog>,
    /// Its outgoing HTTP.
    pub(super) network: Arc<HttpNetwork>,
}

/// What an attempt is given.
pub(super) struct AttemptContext {
    /// The event.
    pub(super) event: Arc<Event>,
    /// 1 for the first attempt since it was accepted or last replayed.
    pub(super) attempt: u32,
    /// Measures the attempt.
    pub(super) watch: Arc<AttemptStopwatch>,
    /// Where the plugin's state is read.
    pub(super) state: Arc<dyn StateReader>,
}

/// The host's side of an instance in an attempt.
pub(super) struct GuestState {
    pub(super) limiter: MemoryLimiter,
    surroundings: Arc<HostContext>,
    output: Arc<AttemptOutput>,
    current: CurrentAttempt,
    /// Made when the guest first asks WASI for something: most never do, and it costs as much as a small call.
    wasi: Option<WasiCtx>,
    table: ResourceTable,
    /// Whether the guest may hold handles that are no more.
    lost_handles: bool,
}

/// What belongs to the attempt under way, and to no other one in the same instance.
struct CurrentAttempt {
    event: Arc<Event>,
    attempt: u32,
    watch: Arc<AttemptStopwatch>,
    publishing: PublishBuffer,
    state: StateBuffer,
    outgoing: OutgoingHttp,
}

impl CurrentAttempt {
    fn new(surroundings: &HostContext, AttemptContext { event, attempt, watch, state }: AttemptContext) -> Self {
        Self {
            publishing: PublishBuffer::default(),
            state: StateBuffer::new(state),
            outgoing: OutgoingHttp::new(surroundings.network.clone(), event.id),
            event,
            attempt,
            watch,
        }
    }
}

impl GuestState {
    /// The host's side of a new instance. What the guest says goes to `output`.
    pub(super) fn new(surroundings: Arc<HostContext>, output: Arc<AttemptOutput>, given: AttemptContext) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            limiter: MemoryLimiter::new(&surroundings.limits),
            current: CurrentAttempt::new(&surroundings, given),
            surroundings,
            output,
            wasi: None,
            table,
            lost_handles: false,
        }
    }

    /// Makes it the host's side of a further attempt, in the same instance, of which nothing is left here but what the
    /// guest holds open.
    pub(super) fn begin(&mut self, given: AttemptContext) {
        self.output.begin(given.event.id);
        self.current = CurrentAttempt::new(&self.surroundings, given);
    }

    /// What the guest says goes there.
    pub(super) fn output(&self) -> &Arc<AttemptOutput> {
        &self.output
    }

    /// Whether the instance could handle another event as well as a new one: it has less than half of the memory that it
    /// may have, and holds little of the host's.
    pub(super) fn may_be_used_again(&mut self) -> bool {
        if self.lost_handles || !self.limiter.has_ample_room() {
            return false;
        }
        let (mut handles, mut held_bytes) = (0, 0);
        for object in self.table.iter_mut() {
            handles += 1;
            held_bytes += held_bytes_of(object);
        }
        handles <= MAX_WAITING_HANDLES && held_bytes <= MAX_WAITING_BYTES
    }

    /// The most handles that the store itself should allow.
    pub(super) fn max_handles() -> usize {
        MAX_HANDLES
    }

    /// What the attempt may use.
    pub(super) fn limits(&self) -> &AttemptLimits {
        &self.surroundings.limits
    }

    /// Drops whatever the guest holds of the host's, once it will not be called again.
    pub(super) fn drop_handles(&mut self) {
        self.table = ResourceTable::new();
        self.lost_handles = true;
    }

    /// What the guest published and what it saw and wrote of its state; or, as the failure of the attempt, the first refusal
    /// of a publish, or that it would keep too much.
    pub(super) fn take_effects(&mut self) -> Result<AttemptEffects, AttemptFailure> {
        let output = |words| AttemptFailure::new(FailureClass::Output, outcome::message(words));
        let published = std::mem::take(&mut self.current.publishing).into_published().map_err(output)?;
        let state = std::mem::replace(&mut self.current.state, StateBuffer::new(Arc::new(NoState)));
        let HostContext { name, limits, .. } = &*self.surroundings;
        let state = state
            .into_step(name, limits.state_bytes)
            .map_err(|words| AttemptFailure::new(FailureClass::Limit, words))?;
        Ok(AttemptEffects { result: None, published, state })
    }
}

/// How much of a guest's an object holds that may hold much of it.
fn held_bytes_of(object: &dyn Any) -> usize {
    let message = object.downcast_ref().map(GuestMessage::size_bytes);
    message.or_else(|| object.downcast_ref().map(keyvalue::SwapHandle::size_bytes)).unwrap_or(0)
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Self { wasi, output, table, .. } = self;
        let build = || {
            WasiCtx::builder()
                .stdout(stdio::GuestStream::out(output.clone()))
                .stderr(stdio::GuestStream::err(output.clone()))
                .max_random_size(MAX_RANDOM_BYTES)
                .build()
        };
        WasiCtxView { ctx: wasi.get_or_insert_with(build), table }
    }
}

/// A linker with everything that a plugin may import.
///
/// # Errors
/// Never, unless two interfaces have one name.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    http::add_to_linker(&mut linker)?;
    Offered::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| guest)?;
    keyvalue::add_to_linker(&mut linker)?;
    standards::add_to_linker(&mut linker)?;
    foreign::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// A linker for each part of WASI, for finding every part that a component does not fit.
pub(super) fn linkers(engine: &Engine) -> wasmtime::Result<Vec<Linker<GuestState>>> {
    type AddImports = fn(&mut Linker<GuestState>) -> wasmtime::Result<()>;
    let parts: [AddImports; 4] = [
        wasmtime_wasi::p2::add_to_linker_async,
        keyvalue::add_to_linker,
        standards::add_to_linker,
        // Alone it would lack the streams that it shares with the rest.
        |linker| {
            wasmtime_wasi::p2::add_to_linker_async(linker)?;
            http::add_to_linker(linker)
        },
    ];
    parts
        .into_iter()
        .map(|add| {
            let mut linker = Linker::new(engine);
            add(&mut linker)?;
            Ok(linker)
        })
        .collect()
}

impl wit::types::Host for GuestState {}
