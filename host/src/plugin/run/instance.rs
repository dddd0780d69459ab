//! Runs one attempt: an instance, one call, and its outcome.
//!
//! The instance is fresh and dropped at the end, unless the plugin's settings allow reuse ([`super::instance_pool`]). The
//! stopwatch limits the whole attempt. The CPU time is checked at each tick of the epoch.

use std::sync::Arc;

use wasmtime::error::Context;
use wasmtime::{Store, UpdateDeadline};

use super::instance_pool::{InstancePool, PooledInstance, ReusePolicy};
use super::outcome;
use super::stopwatch::{AttemptStopwatch, CpuMeter};
use crate::event::{AttemptEffects, AttemptFailure, AttemptOutcome, Event, EventId, FailureClass};
use crate::plugin::component::fit::FittedComponent;
use crate::plugin::host_api::bindings::exports::eventstream::plugin::describe::Manifest;
use crate::plugin::host_api::guest::MAX_HANDLES;
use crate::plugin::host_api::state::NoState;
use crate::plugin::host_api::{CurrentAttempt, GuestOutput, HostContext, InstanceHost};
use crate::plugin::sandbox::Sandbox;
use crate::plugin::sandbox::limits::LimitBreach;
use crate::plugin::{AttemptInput, AttemptLimits, CompletedAttempt, StateReader};

/// The error for an export that has the expected name but another type.
const OTHER_TYPE: &str = "an export has another type than the package in wit/ says";

/// A compiled and checked component, with what its attempts need.
pub(in crate::plugin) struct PreparedComponent {
    /// The component and what its check found.
    pub(in crate::plugin) fit: FittedComponent,
    pub(in crate::plugin) context: Arc<HostContext>,
    pub(in crate::plugin) pool: Arc<InstancePool>,
}

impl PreparedComponent {
    pub(in crate::plugin) fn new(
        fit: FittedComponent,
        sandbox: &Sandbox,
        context: Arc<HostContext>,
        reuse: Option<ReusePolicy>,
    ) -> Self {
        let pool = Arc::new(InstancePool::new(reuse, sandbox.idle_permits.clone(), fit.memories));
        Self { fit, context, pool }
    }

    fn new_output(&self, event: EventId) -> Arc<GuestOutput> {
        let HostContext { name, limits, secrets, .. } = &*self.context;
        Arc::new(GuestOutput::new(name, event, *limits, secrets.clone()))
    }
}

/// Runs one attempt. Never fails: whatever the guest does is an outcome. Dropping the future cancels the attempt.
pub(in crate::plugin) async fn run_attempt(
    prepared: Arc<PreparedComponent>,
    attempt: AttemptInput,
    state: Arc<dyn StateReader>,
    meter: Arc<CpuMeter>,
) -> CompletedAttempt {
    let limits = prepared.context.limits;
    let secrets = prepared.context.secrets.clone();
    let stopwatch = AttemptStopwatch::start(limits.wall_ms, meter);
    let fit = &prepared.fit;
    let pooled = prepared.pool.take();
    let output = match &pooled {
        Some(pooled) => pooled.store.data().output.clone(),
        None => prepared.new_output(attempt.event.id),
    };
    let event = attempt.event.clone();
    let attempt = CurrentAttempt::new(&prepared.context, attempt, stopwatch.clone(), state);
    let called = stopwatch
        .limit(async {
            let instance = match pooled {
                Some(pooled) => begin_again(pooled, limits, attempt),
                None => {
                    let guest = InstanceHost::new(prepared.context.clone(), output.clone(), attempt);
                    instantiate(fit, limits, guest, &stopwatch).await?
                }
            };
            call_handler(fit, instance, &event).await
        })
        .await;

    let captured = output.take();
    let stderr = captured.stderr();
    let outcome = match called {
        Ok(Ok((success, instance))) => {
            prepared.pool.put_back(instance);
            AttemptOutcome::Ok(success)
        }
        Ok(Err(failure)) => AttemptOutcome::Failed(failure),
        Err(error) => AttemptOutcome::Failed(outcome::classify(&error, stderr.as_deref())),
    };
    let outcome = match outcome {
        AttemptOutcome::Failed(failure) => AttemptOutcome::Failed(AttemptFailure {
            message: secrets.hide_cut_end(&failure.message),
            backtrace: failure.backtrace.map(|backtrace| secrets.hide(&backtrace)),
            ..failure
        }),
        ok => ok,
    };
    CompletedAttempt { outcome, log: captured.log, log_lines_dropped: captured.log_lines_dropped, stderr }
}

/// Makes a first instance, checks its exports with their types, and asks it for its manifest, all within `wall_ms`.
///
/// Also returns what it wrote to standard error.
///
/// # Errors
/// Errors of the engine. The same component fails again.
pub(in crate::plugin) async fn introduce(
    prepared: Arc<PreparedComponent>,
    event: Event,
    meter: Arc<CpuMeter>,
    wall_ms: u64,
) -> (wasmtime::Result<Option<Manifest>>, Option<String>) {
    let limits = AttemptLimits { wall_ms, ..prepared.context.limits };
    let output = prepared.new_output(event.id);
    let stopwatch = AttemptStopwatch::start(limits.wall_ms, meter);
    let input = AttemptInput { event: Arc::new(event), attempt: 1 };
    let attempt = CurrentAttempt::new(&prepared.context, input, stopwatch.clone(), Arc::new(NoState));
    let guest = InstanceHost::new(prepared.context.clone(), output.clone(), attempt);
    let introduced = stopwatch
        .limit(async {
            let fit = &prepared.fit;
            let PooledInstance { mut store, instance, .. } = instantiate(fit, limits, guest, &stopwatch).await?;
            fit.handler.check(&mut store, &instance).context(OTHER_TYPE)?;
            let Some(describe) = &fit.describe else { return Ok(None) };
            let describe = describe.load(&mut store, &instance).context(OTHER_TYPE)?;
            Ok(Some(describe.call_describe(&mut store).await?))
        })
        .await;
    (introduced, output.take().stderr())
}

async fn instantiate(
    fit: &FittedComponent,
    limits: AttemptLimits,
    guest: InstanceHost,
    stopwatch: &Arc<AttemptStopwatch>,
) -> wasmtime::Result<PooledInstance> {
    let mut store = Store::new(fit.pre.engine(), guest);
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(usize::try_from(limits.host_call_bytes).unwrap_or(usize::MAX));
    store.set_max_component_handles(MAX_HANDLES);
    limit_cpu_time(&mut store, limits, stopwatch.clone());
    let instance = fit.pre.instantiate_async(&mut store).await?;
    Ok(PooledInstance { store, instance, event_count: 1 })
}

/// Begins another attempt in an instance that has handled an event.
fn begin_again(mut pooled: PooledInstance, limits: AttemptLimits, attempt: CurrentAttempt) -> PooledInstance {
    let stopwatch = attempt.stopwatch.clone();
    pooled.store.data_mut().begin(attempt);
    limit_cpu_time(&mut pooled.store, limits, stopwatch);
    pooled
}

fn limit_cpu_time(store: &mut Store<InstanceHost>, limits: AttemptLimits, stopwatch: Arc<AttemptStopwatch>) {
    store.set_epoch_deadline(1);
    let budget_ns = limits.cpu_ms.saturating_mul(1_000_000);
    store.epoch_deadline_callback(move |_| {
        if stopwatch.cpu_ns() > budget_ns {
            return Err(LimitBreach::CpuTime { limit_ms: limits.cpu_ms }.into());
        }
        Ok(UpdateDeadline::Yield(1))
    });
}

/// Calls the handler. A success comes with the instance, which may be used again.
///
/// # Errors
/// Errors of the engine, traps among them.
async fn call_handler(
    fit: &FittedComponent,
    mut instance: PooledInstance,
    event: &Event,
) -> wasmtime::Result<Result<(AttemptEffects, PooledInstance), AttemptFailure>> {
    let answer = fit.handler.call(&mut instance.store, &instance.instance, event).await?;
    Ok(answer.and_then(|result| {
        let guest = instance.store.data_mut();
        let limits = guest.context.limits;
        let effects = guest.take_effects()?;
        let size_bytes = result.as_ref().map_or(0, |result| result.bytes.len()) as u64;
        if size_bytes > limits.result_bytes {
            let message = format!("the result has {size_bytes} bytes; it may have {}", limits.result_bytes);
            return Err(AttemptFailure::new(FailureClass::Output, message));
        }
        Ok((AttemptEffects { result, ..effects }, instance))
    }))
}
