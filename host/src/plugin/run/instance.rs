//! One attempt: an instance, one call, and what came of it.
//!
//! The instance is a fresh one and dropped at the end, however that came about, unless the operator lets the plugin keep
//! it for further events ([`super::instance_pool`]). The stopwatch is outside of everything, the CPU clock is looked at on every tick
//! of the epoch.

use std::sync::Arc;

use wasmtime::error::Context;
use wasmtime::{Store, UpdateDeadline};

use super::cpu_meter::CpuMeter;
use super::instance_pool::{InstancePool, PooledInstance, ReusePolicy};
use super::outcome;
use super::stopwatch::AttemptStopwatch;
use crate::event::{AttemptEffects, AttemptFailure, AttemptOutcome, Event, EventData, EventId, FailureClass};
use crate::plugin::component::fit::FittedComponent;
use crate::plugin::host_api::bindings::exports::eventstream::plugin::describe::Manifest;
use crate::plugin::host_api::state_reader::NoState;
use crate::plugin::host_api::{AttemptContext, AttemptOutput, GuestState, HostContext};
use crate::plugin::sandbox::Sandbox;
use crate::plugin::sandbox::limits::{AttemptLimits, LimitBreach};
use crate::plugin::{AttemptInput, AttemptResult, StateReader};

/// What is wrong with an export whose name fits and whose type does not.
const OTHER_TYPE: &str = "an export has another type than the package in wit/ says";

/// A component that was compiled and found to fit, with what its attempts need.
pub(in crate::plugin) struct PreparedComponent {
    fit: FittedComponent,
    pub(in crate::plugin) context: Arc<HostContext>,
    pub(in crate::plugin) idle: Arc<InstancePool>,
}

impl PreparedComponent {
    pub(in crate::plugin) fn new(
        fit: FittedComponent,
        sandbox: &Sandbox,
        context: Arc<HostContext>,
        reuse: Option<ReusePolicy>,
    ) -> Self {
        let idle = Arc::new(InstancePool::new(reuse, sandbox.idle_room().clone(), fit.memories));
        Self { fit, context, idle }
    }

    /// What was found out about the component.
    pub(in crate::plugin) fn fit(&self) -> &FittedComponent {
        &self.fit
    }

    fn output(&self, event: EventId) -> Arc<AttemptOutput> {
        let HostContext { name, limits, secrets, .. } = &*self.context;
        Arc::new(AttemptOutput::new(name, event, *limits, secrets.clone()))
    }
}

/// What a first instance said of itself.
#[derive(Debug)]
pub(in crate::plugin) struct GuestIntroduction {
    pub(in crate::plugin) manifest: Option<Manifest>,
}

/// Makes one attempt. Never fails: whatever the guest does is an outcome. Dropping the future cancels the attempt.
pub(in crate::plugin) async fn attempt(
    prepared: Arc<PreparedComponent>,
    attempt: AttemptInput,
    state: Arc<dyn StateReader>,
    meter: Arc<CpuMeter>,
) -> AttemptResult {
    let limits = prepared.context.limits;
    let secrets = prepared.context.secrets.clone();
    let watch = AttemptStopwatch::start(limits.wall_ms, meter);
    let fit = prepared.fit();
    let kept = prepared.idle.take();
    let output = match &kept {
        Some(living) => living.store.data().output.clone(),
        None => prepared.output(attempt.event.id),
    };
    let given = AttemptContext { event: attempt.event, attempt: attempt.attempt, watch: watch.clone(), state };
    let called = watch
        .limit(async {
            let event = given.event.clone();
            let living = match kept {
                Some(living) => again(living, limits, given),
                None => {
                    let guest = GuestState::new(prepared.context.clone(), output.clone(), given);
                    instantiate(fit, limits, guest, &watch).await?
                }
            };
            call(fit, living, &event).await
        })
        .await;

    let said = output.take();
    let stderr = said.stderr();
    let outcome = match called {
        Ok(Ok((success, living))) => {
            prepared.idle.keep(living);
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
    AttemptResult { outcome, log: said.log, log_lines_dropped: said.log_lines_dropped, stderr }
}

/// Makes a first instance, looks the exports up with their types, and asks it to describe itself, all of it within
/// `wall_ms`.
///
/// Gives what it wrote to its standard error as well.
///
/// # Errors
/// Those of the engine; the same component fails again.
pub(in crate::plugin) async fn introduce(
    prepared: Arc<PreparedComponent>,
    event: Event,
    meter: Arc<CpuMeter>,
    wall_ms: u64,
) -> (wasmtime::Result<GuestIntroduction>, Option<String>) {
    let limits = AttemptLimits { wall_ms, ..prepared.context.limits };
    let output = prepared.output(event.id);
    let watch = AttemptStopwatch::start(limits.wall_ms, meter);
    let given = AttemptContext { event: Arc::new(event), attempt: 1, watch: watch.clone(), state: Arc::new(NoState) };
    let guest = GuestState::new(prepared.context.clone(), output.clone(), given);
    let introduced = watch
        .limit(async {
            let fit = prepared.fit();
            let PooledInstance { mut store, instance, .. } = instantiate(fit, limits, guest, &watch).await?;
            fit.handler.check(&mut store, &instance).context(OTHER_TYPE)?;
            let manifest = match &fit.describe {
                None => None,
                Some(describe) => {
                    let describe = describe.load(&mut store, &instance).context(OTHER_TYPE)?;
                    Some(describe.call_describe(&mut store).await?)
                }
            };
            Ok(GuestIntroduction { manifest })
        })
        .await;
    (introduced, output.take().stderr())
}

async fn instantiate(
    fit: &FittedComponent,
    limits: AttemptLimits,
    guest: GuestState,
    watch: &Arc<AttemptStopwatch>,
) -> wasmtime::Result<PooledInstance> {
    let mut store = Store::new(fit.pre.engine(), guest);
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(usize::try_from(limits.host_call_bytes).unwrap_or(usize::MAX));
    store.set_max_component_handles(GuestState::max_handles());
    limit_time(&mut store, limits, watch.clone());
    let instance = fit.pre.instantiate_async(&mut store).await?;
    Ok(PooledInstance::new(store, instance))
}

/// An instance that has handled an event, for another one.
fn again(mut living: PooledInstance, limits: AttemptLimits, given: AttemptContext) -> PooledInstance {
    let watch = given.watch.clone();
    living.store.data_mut().begin(given);
    limit_time(&mut living.store, limits, watch);
    living
}

fn limit_time(store: &mut Store<GuestState>, limits: AttemptLimits, watch: Arc<AttemptStopwatch>) {
    store.set_epoch_deadline(1);
    let budget_ns = limits.cpu_ms.saturating_mul(1_000_000);
    store.epoch_deadline_callback(move |_| {
        if watch.cpu_ns() > budget_ns {
            return Err(LimitBreach::CpuTime { limit_ms: limits.cpu_ms }.into());
        }
        Ok(UpdateDeadline::Yield(1))
    });
}

/// The handler's answer, with the instance if all went well; or the engine's error.
async fn call(
    fit: &FittedComponent,
    mut living: PooledInstance,
    event: &Event,
) -> wasmtime::Result<Result<(AttemptEffects, PooledInstance), AttemptFailure>> {
    let answer = fit.handler.call(&mut living.store, &living.instance, event).await?;
    Ok(answer.and_then(|result| {
        let guest = living.store.data_mut();
        let limits = *guest.limits();
        let effects = guest.take_effects()?;
        let result = result_within(result, &limits);
        let result = result.map_err(|words| AttemptFailure::new(FailureClass::Output, outcome::message(words)))?;
        let success = AttemptEffects { result, ..effects };
        Ok((success, living))
    }))
}

fn result_within(result: Option<EventData>, limits: &AttemptLimits) -> Result<Option<EventData>, String> {
    match result.as_ref().map_or(0, |result| result.bytes.len()) as u64 {
        size if size > limits.result_bytes => {
            Err(format!("the result has {size} bytes; it may have {}", limits.result_bytes))
        }
        _ => Ok(result),
    }
}
