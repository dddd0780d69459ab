//! What the figures have in common: the stores, the host, the limits as processes, and the rate at which events end.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions};
use eventstream_tests::layout;
use eventstream_tests::load::{HttpLoad, LoadResult, Pace, Span, post};
use eventstream_tests::redis::RedisServer;
use eventstream_tests::store::{Broker, Store};
use serde_json::json;

/// The plugin that handles the events, and their type.
pub(super) const WORK: &str = "work";
/// The payload of an event unless a figure says something else.
pub(super) const PAYLOAD_BYTES: usize = 200;
/// Connections of a load unless a figure says something else.
pub(super) const CONNECTIONS: usize = 64;
/// How often the totals are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// The longest time without an end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store with this durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreKind {
    RedisEverysec,
    RedisAlways,
    Embedded,
}

impl StoreKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RedisEverysec => "Redis everysec",
            Self::RedisAlways => "Redis always",
            Self::Embedded => "embedded",
        }
    }

    pub(super) fn start(self) -> Result<Store> {
        Ok(match self {
            Self::RedisEverysec => Store::Redis(RedisServer::start_with(&["--appendfsync", "everysec"])?),
            Self::RedisAlways => Store::Redis(RedisServer::start()?),
            Self::Embedded => Broker::Embedded.start(),
        })
    }
}

/// A host on a store, with everything at its default but the most events that may wait.
pub(super) fn host(store: &Store, plugins: &PluginsDir) -> Host {
    Host::spawn(&host_options(store, plugins).with("plugins.data_dir", folder().join("plugins").display()))
}

/// The options of such a host, except for where it keeps what it compiled.
pub(super) fn host_options(store: &Store, plugins: &PluginsDir) -> HostOptions {
    HostOptions::new(&store.url(), plugins.path()).with("broker.max_waiting", 1_000_000_000).with("log.level", "error")
}

/// Where results go, and where hosts keep what they compiled, so that none but the first compiles.
pub(super) fn folder() -> PathBuf {
    let profile = layout::profile_dir();
    profile.parent().unwrap_or(&profile).join("bench")
}

/// One plugin that does nothing.
pub(super) fn idle_plugin() -> PluginsDir {
    let plugins = PluginsDir::empty();
    plugins.put(WORK, &layout::guest("idle"));
    plugins
}

/// A host that accepts and hands nothing out: its one slot sleeps. Gives the plugins, which must outlive it.
pub(super) fn host_that_only_accepts(store: &Store) -> (Host, PluginsDir) {
    let plugins = sleeping_plugin();
    let host = host(store, &plugins);
    put_to_sleep(&host);
    (host, plugins)
}

/// One plugin that has one slot, see [`put_to_sleep`].
pub(super) fn sleeping_plugin() -> PluginsDir {
    PluginsDir::scripted(&[WORK]).with_settings(WORK, "concurrency = 1\n[limits]\nwall_ms = 3600000\n")
}

/// Takes the slot of the sleeping plugin.
pub(super) fn put_to_sleep(host: &Host) {
    let client = host.client();
    client.wait_for(&client.post_event(WORK, &json!({"sleep-ms": 3_500_000})), &["running"]);
}

/// Where a host or another server listens.
pub(super) fn address(url: &str) -> Result<SocketAddr> {
    url.trim_start_matches("http://").parse().with_context(|| format!("{url:?} is no address"))
}

/// Single events as fast as answers come, for so long, of which all must be accepted.
pub(super) fn flood(server: SocketAddr, connections: usize, span: Span) -> Result<LoadResult> {
    let request = post(WORK, PAYLOAD_BYTES);
    accepted(&HttpLoad { server, connections, request: &request, pace: Pace::Closed, span })
}

/// Runs a load of which everything must be accepted.
pub(super) fn accepted(load: &HttpLoad<'_>) -> Result<LoadResult> {
    let taken = load.run()?;
    let (refused, status) = taken.refused;
    ensure!(refused == 0, "{refused} requests were not accepted but answered {status}");
    Ok(taken)
}

/// A server that keeps nothing.
pub(super) struct Ceiling {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Ceiling {
    pub(super) fn start() -> Result<Self> {
        let mut child = Command::new(limits()).arg("ceiling").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the output is piped")?).read_line(&mut line)?;
        let address = address(line.trim().trim_start_matches("listening on "))?;
        Ok(Self { child, address })
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one of the native consumers of `host/benches/limits`; events in a second.
pub(super) fn limit(arguments: &[&str]) -> Result<f64> {
    let output = Command::new(limits()).args(arguments).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "`limits {}` failed", arguments.join(" "));
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().with_context(|| format!("{text:?} is no rate"))
}

fn limits() -> PathBuf {
    layout::profile_dir().join("examples").join("limits")
}

/// What working off took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drained {
    /// Ends in a second.
    pub(super) rate: f64,
    /// CPU time of the host for an event, in microseconds.
    pub(super) cpu_us: f64,
}

/// Waits until this many events have ended or this much time has passed. Measures from the first end that it saw to the
/// last.
pub(super) fn drain(host: &Host, ends: u64, most: Duration) -> Result<Drained> {
    let client = host.client();
    let (mut first, mut last) = (None, (Instant::now(), 0));
    loop {
        let (now, cpu, done) = (Instant::now(), host.cpu_time(), client.metrics()["processed"].as_u64().unwrap_or(0));
        if done > last.1 {
            last = (now, done);
        } else if last.0.elapsed() > PATIENCE {
            bail!("{done} of {ends} events have ended, and no further one within a minute");
        }
        let (begun, cpu_at_first, already) = *first.get_or_insert((now, cpu, done));
        if already == 0 {
            first = (done > 0).then_some((now, cpu, done));
        }
        if done >= ends || (done > already && now - begun >= most) {
            ensure!(done > already, "all events ended between two looks: there must be more of them");
            let events = (done - already) as f64;
            let cpu_us = (cpu - cpu_at_first).as_secs_f64() * 1e6 / events;
            return Ok(Drained { rate: events / (now - begun).as_secs_f64(), cpu_us });
        }
        std::thread::sleep(LOOK);
    }
}
