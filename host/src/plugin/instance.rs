//! One attempt: a fresh instance, one call, and what came of it.
//!
//! The store is dropped at the end of every attempt, however it ended; nothing of an instance is ever used again. The
//! wall clock is outside of everything, the CPU clock is looked at on every tick of the epoch.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use wasmtime::component::Instance;
use wasmtime::error::Context;
use wasmtime::{Store, UpdateDeadline};

use super::bindings::exports::eventstream::plugin::describe::Manifest;
use super::fit::{self, Fit};
use super::host::{Guest, Output, Surroundings};
use super::limits::{Breach, Limits};
use super::load::LoadError;
use super::meter::Meter;
use super::sandbox::Sandbox;
use super::state::NoState;
use super::{Attempt, Completed, ReadState, compile, outcome};
use crate::event::{Class, Data, Event, Failure, Outcome, Success};

/// What is wrong with an export whose name fits and whose type does not.
const OTHER_TYPE: &str = "an export has another type than the package in wit/ says";

/// A component that was compiled and found to fit, with what its attempts need.
pub(super) struct Prepared {
    fit: Fit,
    sandbox: Arc<Sandbox>,
    /// The same in the other place of the sandbox, once it had to move there.
    moved: OnceLock<Option<Fit>>,
    pub(super) surroundings: Arc<Surroundings>,
}

impl Prepared {
    pub(super) fn new(fit: Fit, sandbox: Arc<Sandbox>, surroundings: Arc<Surroundings>) -> Self {
        Self { fit, sandbox, moved: OnceLock::new(), surroundings }
    }

    /// What was found out about the component.
    pub(super) fn fit(&self) -> &Fit {
        &self.fit
    }

    /// The component where it may run now.
    fn here(&self) -> wasmtime::Result<&Fit> {
        if !self.sandbox.has_moved() {
            return Ok(&self.fit);
        }
        let moved = self.moved.get_or_init(|| {
            self.move_over().inspect_err(|error| tracing::error!("the component cannot be moved: {error}")).ok()
        });
        moved.as_ref().ok_or_else(|| wasmtime::format_err!("the host has no sandbox for a system that swaps"))
    }

    fn move_over(&self) -> Result<Fit, LoadError> {
        let place = self.sandbox.without_scan().ok_or(LoadError::Host)?;
        let component = compile::copy(self.fit.pre.component(), &place.engine)?;
        fit::check(&component, &place.linker, self.surroundings.limits.memory_bytes).map_err(LoadError::Misfits)
    }
}

/// What a first instance said of itself.
#[derive(Debug)]
pub(super) struct Introduced {
    pub(super) manifest: Option<Manifest>,
}

/// Makes one attempt. Never fails: whatever the guest does is an outcome. Dropping the future cancels the attempt.
pub(super) async fn attempt(
    prepared: Arc<Prepared>,
    attempt: Attempt,
    state: Arc<dyn ReadState>,
    meter: Arc<Meter>,
) -> Completed {
    let limits = prepared.surroundings.limits;
    let event = attempt.event;
    let secrets = prepared.surroundings.secrets.clone();
    let output = Arc::new(Output::new(&prepared.surroundings.name, event.id, limits, secrets.clone()));
    let deadline = Instant::now() + Duration::from_millis(limits.wall_ms);
    let surroundings = prepared.surroundings.clone();
    let guest = Guest::new(surroundings, event.clone(), attempt.attempt, deadline, output.clone(), state);
    let called = within(deadline, &limits, call(&prepared, guest, &event, meter)).await;

    let said = output.take();
    let stderr = said.stderr();
    let outcome = match called {
        Ok(Ok(success)) => Outcome::Ok(success),
        Ok(Err(failure)) => Outcome::Failed(failure),
        Err(error) => Outcome::Failed(outcome::classify(&error, stderr.as_deref())),
    };
    let outcome = match outcome {
        Outcome::Failed(failure) => Outcome::Failed(Failure {
            message: secrets.hide_cut_end(&failure.message),
            backtrace: failure.backtrace.map(|backtrace| secrets.hide(&backtrace)),
            ..failure
        }),
        ok => ok,
    };
    Completed { outcome, log: said.log, log_lines_dropped: said.log_lines_dropped, stderr }
}

/// Makes a first instance, looks the exports up with their types, and asks it to describe itself.
///
/// # Errors
/// Those of the engine; the same component fails again.
pub(super) async fn introduce(
    prepared: Arc<Prepared>,
    event: Event,
    meter: Arc<Meter>,
) -> wasmtime::Result<Introduced> {
    let limits = prepared.surroundings.limits;
    let secrets = prepared.surroundings.secrets.clone();
    let output = Arc::new(Output::new(&prepared.surroundings.name, event.id, limits, secrets));
    let deadline = Instant::now() + Duration::from_millis(limits.wall_ms);
    let guest = Guest::new(prepared.surroundings.clone(), Arc::new(event), 1, deadline, output, Arc::new(NoState));
    within(deadline, &limits, async {
        let fit = prepared.here()?;
        let (mut store, instance) = instantiate(fit, limits, guest, meter).await?;
        fit.handler.check(&mut store, &instance).context(OTHER_TYPE)?;
        let manifest = match &fit.describe {
            None => None,
            Some(describe) => {
                let describe = describe.load(&mut store, &instance).context(OTHER_TYPE)?;
                Some(describe.call_describe(&mut store).await?)
            }
        };
        Ok(Introduced { manifest })
    })
    .await
}

/// The answer, or the breach of the wall time; then the call is dropped, wherever it stands.
async fn within<T>(
    deadline: Instant,
    limits: &Limits,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    match tokio::time::timeout_at(deadline.into(), call).await {
        Ok(answer) => answer,
        Err(_) => Err(Breach::WallTime { limit_ms: limits.wall_ms }.into()),
    }
}

async fn instantiate(
    fit: &Fit,
    limits: Limits,
    guest: Guest,
    meter: Arc<Meter>,
) -> wasmtime::Result<(Store<Guest>, Instance)> {
    let mut store = Store::new(fit.pre.engine(), guest);
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(usize::try_from(limits.host_call_bytes).unwrap_or(usize::MAX));
    store.set_max_component_handles(Guest::max_handles());
    store.set_epoch_deadline(1);
    let budget_ns = limits.cpu_ms.saturating_mul(1_000_000);
    store.epoch_deadline_callback(move |_| {
        if meter.spent_ns() > budget_ns {
            return Err(Breach::CpuTime { limit_ms: limits.cpu_ms }.into());
        }
        Ok(UpdateDeadline::Yield(1))
    });
    let instance = fit.pre.instantiate_async(&mut store).await?;
    Ok((store, instance))
}

/// The handler's answer, or the engine's error.
async fn call(
    prepared: &Prepared,
    guest: Guest,
    event: &Event,
    meter: Arc<Meter>,
) -> wasmtime::Result<Result<Success, Failure>> {
    let limits = prepared.surroundings.limits;
    let fit = prepared.here()?;
    let (mut store, instance) = instantiate(fit, limits, guest, meter).await?;
    let answer = fit.handler.call(&mut store, &instance, event).await?;
    Ok(match answer {
        Ok(result) => store
            .into_data()
            .into_effects()
            .and_then(|effects| Ok(Success { result: result_within(result, &limits)?, ..effects }))
            .map_err(|words| Failure::new(Class::Output, outcome::message(words))),
        Err(failure) => Err(failure),
    })
}

fn result_within(result: Option<Data>, limits: &Limits) -> Result<Option<Data>, String> {
    match result.as_ref().map_or(0, |result| result.bytes.len()) as u64 {
        size if size > limits.result_bytes => {
            Err(format!("the result has {size} bytes; it may have {}", limits.result_bytes))
        }
        _ => Ok(result),
    }
}
