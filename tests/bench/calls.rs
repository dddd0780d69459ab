//! Component calls through `plugin::Registry` as the host makes them, a fresh instance for each, without a broker: on one
//! core and on two.
//!
//! Each measurement is a process of its own that may use so many cores and no more, so that whatever the host makes of
//! the number of cores is a part of what is measured.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use eventstream::clock;
use eventstream::event::{DEFAULT_SOURCE, Data, Event, Outcome};
use eventstream::plugin::{self, Attempt, MemoryState, Plugin, Registry};
use eventstream_tests::load::payload;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::figure::{Figure, Plan, Row};
use super::setup::{PAYLOAD_BYTES, WORK, idle_plugin};

/// The command of the process that measures: cores and milliseconds follow.
pub(super) const CHILD: &str = "child-calls";
/// Calls under way for each core, as many as the host has slots for a plugin.
const CALLS_A_CORE: usize = 2;

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
    let program = std::env::current_exe()?;
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
        let plugin = load(&plugins).await?;
        count(&plugin, cores, Duration::from_millis(millis / 4)).await?;
        println!("{:.1}", count(&plugin, cores, Duration::from_millis(millis)).await?);
        Ok(())
    })
}

/// The plugin of [`idle_plugin`], loaded as the host does.
pub(super) async fn load(plugins: &eventstream_tests::guests::PluginsDir) -> Result<Arc<Plugin>> {
    let registry = Registry::open(plugin::Options {
        dir: plugins.path().to_owned(),
        concurrency: 64,
        settle_ms: 0,
        ..plugin::Options::default()
    })
    .await?;
    registry.route(&WORK.parse()?).context("the plugin was not loaded")
}

/// An attempt at an event of the usual size.
pub(super) fn attempt() -> Result<Attempt> {
    let data = Some(Data::text(payload(PAYLOAD_BYTES)));
    let event = Event { data, ..Event::new(WORK.parse()?, DEFAULT_SOURCE, clock::now()) };
    Ok(Attempt { event: event.into(), attempt: 1 })
}

async fn count(plugin: &Arc<Plugin>, cores: usize, span: Duration) -> Result<f64> {
    let (calls, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..cores * CALLS_A_CORE {
        let (plugin, calls, attempt, state) =
            (plugin.clone(), calls.clone(), attempt()?, Arc::<MemoryState>::default());
        callers.spawn(async move {
            while begun.elapsed() < span {
                let completed = plugin.handle(attempt.clone(), state.clone()).await;
                ensure!(matches!(completed.outcome, Outcome::Ok(_)), "a call failed: {:?}", completed.outcome);
                calls.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(calls.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
}
