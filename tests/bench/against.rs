//! This build against an earlier one, in turns and on the same loads.
//!
//! Each row is held against the earlier build. The two change places from turn to turn, so that neither always finds the
//! machine as the other left it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::Host;
use eventstream_tests::load::{HttpLoad, LoadResult, Pace, Span, post_batch};
use eventstream_tests::redis::RedisServer;
use eventstream_tests::store::Store;

use super::calls;
use super::figure::{Figure, Plan, Row};
use super::latency::{OF_THE_MOST, open_loop};
use super::mixed::{Rates, under_load};
use super::setup::{
    CONNECTIONS, PAYLOAD_BYTES, StoreKind, WORK, accepted, address, drain, flood, folder, host_options, idle_plugin,
    put_to_sleep, sleeping_plugin,
};

pub(super) const NAME: &str = "against";
pub(super) const ABOUT: &str = "this build against an earlier one, on the same loads";

/// Events in one request where a store is filled.
const BATCH: usize = 500;
/// The connections that fill a store.
const FILLERS: usize = 2;

/// An earlier build of the project, see `cargo xtask bench --against`.
pub(super) struct EarlierBuild {
    /// Its programs lie in `release/eventstream` and `release/deps/figures` below it.
    folder: PathBuf,
    commit: String,
}

impl EarlierBuild {
    pub(super) fn new(folder: PathBuf, commit: String) -> Self {
        Self { folder, commit }
    }
}

/// One of the two builds.
#[derive(Clone, Copy)]
enum Build<'a> {
    Earlier(&'a EarlierBuild),
    Present,
}

impl Build<'_> {
    fn start(self, store: &Store, plugins: &PluginsDir) -> Host {
        let options = host_options(store, plugins);
        Host::spawn(&match self {
            Self::Earlier(earlier) => options
                .program(&earlier.folder.join("release/eventstream"))
                .with("plugins.data_dir", earlier.folder.join("plugins").display()),
            Self::Present => options.with("plugins.data_dir", folder().join("plugins").display()),
        })
    }

    fn calls(self, cores: usize, millis: u64) -> Result<f64> {
        let program = match self {
            Self::Earlier(earlier) => earlier.folder.join("release/deps/figures"),
            Self::Present => std::env::current_exe()?,
        };
        calls::by_program(&program, cores, millis)
    }
}

pub(super) fn measure(plan: &Plan, before: &EarlierBuild) -> Result<Figure> {
    let mut figure = Figure::default();
    for kind in [StoreKind::RedisEverysec, StoreKind::Embedded] {
        let names = match kind {
            StoreKind::Embedded => &LOAD_ROWS[..LOAD_ROWS.len() - REDIS_ROWS],
            _ => &LOAD_ROWS[..],
        };
        let mut rows = new_rows(before, names, kind.name());
        // Both are held to the same rate, which the earlier build can keep up with.
        let rate = OF_THE_MOST * Mixed::measure(plan, Build::Earlier(before), kind)?.keeps_up_with();
        in_turns(plan, before, &mut rows, |build| {
            eprintln!("  {}, {}", kind.name(), build_name(build));
            load_values(plan, build, kind, rate)
        })?;
        figure.rows.extend(rows);
    }
    let mut rows = new_rows(before, &CALL_ROWS, "calls");
    let millis = plan.pick(4_000, 1_000);
    in_turns(plan, before, &mut rows, |build| Ok(vec![build.calls(1, millis)?, build.calls(2, millis)?]))?;
    figure.rows.extend(rows);
    figure
        .note("mixed: 64 connections that wait for their 202, while a component that does nothing handles the events");
    figure.note("p99: of the time to the 202, at 80 % of the rate that the earlier build accepts and handles");
    figure.note("kept and logged: what Redis has more in memory and in its append-only file, for an event that was accepted and processed");
    Ok(figure)
}

/// What is measured on each store, and the unit.
const LOAD_ROWS: [(&str, &str); 8] = [
    ("accept", "events/s"),
    ("drain", "events/s"),
    ("mixed, accepted", "events/s"),
    ("mixed, CPU of the host", "µs/event"),
    ("p99 to the 202", "ms"),
    ("mixed, CPU of Redis", "µs/event"),
    ("kept", "bytes/event"),
    ("logged", "bytes/event"),
];
/// The last of them are measured on Redis only.
const REDIS_ROWS: usize = 3;
const CALL_ROWS: [(&str, &str); 2] = [("1 core", "calls/s"), ("2 cores", "calls/s")];

fn new_rows(before: &EarlierBuild, names: &[(&str, &str)], of: &str) -> Vec<Row> {
    names.iter().map(|(name, unit)| Row::new(format!("{of}: {name}"), unit).against(&*before.commit)).collect()
}

fn build_name(build: Build<'_>) -> &str {
    match build {
        Build::Earlier(earlier) => &earlier.commit,
        Build::Present => "this build",
    }
}

/// Measures both builds in each turn; the values are those of the rows.
fn in_turns(
    plan: &Plan,
    before: &EarlierBuild,
    rows: &mut [Row],
    measure: impl Fn(Build<'_>) -> Result<Vec<f64>>,
) -> Result<()> {
    for turn in 0..plan.repetitions {
        let (earlier, present) = if turn % 2 == 0 {
            let earlier = measure(Build::Earlier(before))?;
            (earlier, measure(Build::Present)?)
        } else {
            let present = measure(Build::Present)?;
            (measure(Build::Earlier(before))?, present)
        };
        for (row, (limit, value)) in rows.iter_mut().zip(earlier.into_iter().zip(present)) {
            row.turn(limit, value);
        }
    }
    Ok(())
}

/// The values of [`LOAD_ROWS`]; on the embedded store only its first ones.
fn load_values(plan: &Plan, build: Build<'_>, kind: StoreKind, rate: f64) -> Result<Vec<f64>> {
    let accepted = accept(plan, build, kind)?;
    let worked_off = work_off(plan, build, kind)?;
    let mixed = Mixed::measure(plan, build, kind)?;
    let p99 = p99_ms(plan, build, kind, rate)?;
    let both = vec![accepted, worked_off.rate, mixed.rates.accepted, mixed.host_us, p99];
    let redis = mixed.redis_us.into_iter().chain(worked_off.redis_bytes.into_iter().flatten());
    Ok(both.into_iter().chain(redis).collect())
}

fn accept(plan: &Plan, build: Build<'_>, kind: StoreKind) -> Result<f64> {
    let (store, plugins) = (kind.start()?, sleeping_plugin());
    let host = build.start(&store, &plugins);
    put_to_sleep(&host);
    let server = address(host.url())?;
    flood(server, CONNECTIONS, Span::Time(plan.pick(Duration::from_secs(1), Duration::from_millis(300))))?;
    Ok(flood(server, CONNECTIONS, Span::Time(plan.pick(Duration::from_secs(4), Duration::from_secs(1))))?.rate())
}

struct WorkedOff {
    /// Ends in a second.
    rate: f64,
    /// Bytes in memory and in the log for an event, on Redis.
    redis_bytes: Option<[f64; 2]>,
}

/// Fills a store through the build itself, since each build writes its own format, and works it off.
fn work_off(plan: &Plan, build: Build<'_>, kind: StoreKind) -> Result<WorkedOff> {
    let events = plan.events(200_000, 30_000);
    let store = match kind {
        // A rewrite would hide what was logged.
        StoreKind::RedisEverysec => {
            Store::Redis(RedisServer::start_with(&["--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"])?)
        }
        _ => kind.start()?,
    };
    let empty = redis_sizes(&store)?;
    {
        let plugins = sleeping_plugin();
        let host = build.start(&store, &plugins);
        put_to_sleep(&host);
        let (request, requests) = (post_batch(WORK, PAYLOAD_BYTES, BATCH), events.div_ceil(BATCH) as u64);
        let (pace, span) = (Pace::Closed, Span::Requests(requests));
        accepted(&HttpLoad { server: address(host.url())?, connections: FILLERS, request: &request, pace, span })?;
        host.kill9();
        host.wait();
    }
    let plugins = idle_plugin();
    let host = build.start(&store, &plugins);
    let drained = drain(&host, events as u64, plan.pick(Duration::from_secs(60), Duration::from_secs(20)))?;
    let ended = host.client().metrics()["processed"].as_u64().unwrap_or(0).max(1) as f64;
    let full = redis_sizes(&store)?;
    let redis_bytes = empty.zip(full).map(|(empty, full)| [0, 1].map(|size| (full[size] - empty[size]) / ended));
    Ok(WorkedOff { rate: drained.rate, redis_bytes })
}

/// Accepting and handling at the same time.
struct Mixed {
    rates: Rates,
    host_us: f64,
    redis_us: Option<f64>,
}

impl Mixed {
    fn measure(plan: &Plan, build: Build<'_>, kind: StoreKind) -> Result<Self> {
        let span = plan.pick(Duration::from_secs(5), Duration::from_secs(2));
        let (store, plugins) = (kind.start()?, idle_plugin());
        let host = build.start(&store, &plugins);
        let ((rates, events), before, after) = under_load(&host, span, || Ok((host.cpu_time(), redis_cpu(&store)?)))?;
        let host_us = (after.0 - before.0).as_secs_f64() * 1e6 / events;
        let redis_us = before.1.zip(after.1).map(|(before, after)| (after - before) * 1e6 / events);
        Ok(Self { rates, host_us, redis_us })
    }

    fn keeps_up_with(&self) -> f64 {
        self.rates.accepted.min(self.rates.ended)
    }
}

fn p99_ms(plan: &Plan, build: Build<'_>, kind: StoreKind, rate: f64) -> Result<f64> {
    let (store, plugins) = (kind.start()?, idle_plugin());
    let host = build.start(&store, &plugins);
    let server = address(host.url())?;
    open_loop(server, rate, Duration::from_secs(1), |_, _| {})?;
    let span = plan.pick(Duration::from_secs(6), Duration::from_secs(2));
    let LoadResult { latency_us, .. } = open_loop(server, rate, span, |_, _| {})?;
    Ok(latency_us.value_at_quantile(0.99) as f64 / 1_000.0)
}

/// Bytes in memory and in the append-only file of Redis.
fn redis_sizes(store: &Store) -> Result<Option<[f64; 2]>> {
    let Store::Redis(server) = store else { return Ok(None) };
    Ok(Some([server.info("used_memory")?, server.info("aof_current_size")?]))
}

/// The CPU time of Redis in seconds.
fn redis_cpu(store: &Store) -> Result<Option<f64>> {
    let Store::Redis(server) = store else { return Ok(None) };
    Ok(Some(server.info::<f64>("used_cpu_user")? + server.info::<f64>("used_cpu_sys")?))
}
