//! Component calls through `plugin::Registry` as the host makes them, a fresh instance for each, without a broker: on one
//! core and on two.
//!
//! Each measurement runs in a process that may use only this number of cores. So the number of cores has its full effect
//! on the host.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use eventstream::clock;
use eventstream::event::{AttemptOutcome, DEFAULT_SOURCE, Event, EventData};
use eventstream::plugin::{self, AttemptInput, GuestJob, MemoryState, Plugin, PluginRegistry};
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::load::payload;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::mpsc;

use super::figure::{Figure, Plan, Row};
use super::setup::{PAYLOAD_BYTES, WORK, idle_plugin};

/// The command of the process that measures: cores and milliseconds follow.
pub(super) const CHILD: &str = "child-calls";

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    let mut row = Row::new("2 cores", "calls/s").against("1 core").target(1.6, 1.8);
    let mut single = Row::new("1 core, for a call", "µs");
    let millis = plan.pick(4_000, 1_000);
    for _ in 0..plan.repetitions {
        let (one, two) = (on_cores(1, millis)?, on_cores(2, millis)?);
        row.turn(one, two);
        single = single.with(1e6 / one);
    }
    Ok(Figure { rows: vec![row, single], ..Figure::default() })
}

/// Calls in a second, by a process of its own.
fn on_cores(cores: usize, millis: u64) -> Result<f64> {
    by_program(&std::env::current_exe()?, cores, millis)
}

/// Calls in a second, by a process of any build of this program.
pub(super) fn by_program(program: &Path, cores: usize, millis: u64) -> Result<f64> {
    let output = Command::new(program)
        .args([CHILD, &cores.to_string(), &millis.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the process that makes calls failed");
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().with_context(|| format!("{text:?} is no rate"))
}

/// Makes calls on so many cores for so long and prints how many in a second.
pub(super) fn child(cores: usize, millis: u64) -> Result<()> {
    let (allowed, mut mine) = (sched_getaffinity(None)?, CpuSet::new());
    let chosen = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).take(cores);
    chosen.for_each(|core| mine.set(core));
    ensure!(mine.count() as usize == cores, "this machine has less than {cores} cores for us");
    sched_setaffinity(None, &mine)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(cores).enable_all().build()?;
    runtime.block_on(async {
        let plugins = idle_plugin();
        let (registry, plugin) = load(&plugins).await?;
        let payload = payload(PAYLOAD_BYTES);
        rate(&registry, &plugin, cores, Duration::from_millis(millis / 4), &payload).await?;
        println!("{:.1}", rate(&registry, &plugin, cores, Duration::from_millis(millis), &payload).await?);
        Ok(())
    })
}

/// The one plugin of a directory, loaded as the host does, and what it runs on.
pub(super) async fn load(plugins: &PluginsDir) -> Result<(Arc<PluginRegistry>, Arc<Plugin>)> {
    let registry = PluginRegistry::open(plugin::RegistryOptions {
        dir: plugins.path().to_owned(),
        concurrency: 64,
        quiet_ms: 0,
        ..plugin::RegistryOptions::default()
    })
    .await?;
    let plugin = registry.route(&WORK.parse()?).context("the plugin was not loaded")?;
    Ok((registry, plugin))
}

/// An attempt at an event with a payload.
fn attempt(payload: &str) -> Result<AttemptInput> {
    let data = Some(EventData::text(payload));
    let event = Event { data, ..Event::new(WORK.parse()?, DEFAULT_SOURCE, clock::now()) };
    Ok(AttemptInput { event: event.into(), attempt: 1 })
}

/// Calls in a second for so long: worked off in rows, as the worker does.
pub(super) async fn rate(
    registry: &PluginRegistry,
    plugin: &Arc<Plugin>,
    rows: usize,
    span: Duration,
    payload: &str,
) -> Result<f64> {
    let (calls, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let (failed, mut failures) = mpsc::unbounded_channel();
    for _ in 0..rows {
        let (plugin, calls, failed) = (plugin.clone(), calls.clone(), failed.clone());
        let (attempt, state) = (attempt(payload)?, Arc::<MemoryState>::default());
        registry.run_jobs(move || {
            let (plugin, calls, failed) = (plugin.clone(), calls.clone(), failed.clone());
            let (attempt, state) = (attempt.clone(), state.clone());
            (begun.elapsed() < span).then(|| {
                GuestJob::new(|meter| async move {
                    match plugin.handle_here(plugin.acquire_permit().await, attempt, state, meter).await.outcome {
                        AttemptOutcome::Ok(_) => drop(calls.fetch_add(1, Ordering::Relaxed)),
                        AttemptOutcome::Failed(failure) => drop(failed.send(failure)),
                    }
                })
            })
        });
    }
    drop(failed);
    // Ends when the last row has.
    if let Some(failure) = failures.recv().await {
        bail!("a call failed: {failure:?}");
    }
    Ok(calls.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
}
