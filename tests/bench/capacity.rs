//! What a great many events cost in the embedded store: memory, disk, and the time until a host that starts on them is at
//! work. And whether what ended gives its room back, and the memory of a host stays what it was.
//!
//! Run by `cargo xtask bench`; `--events N` says how many, 100,000 by default. Memory is what the kernel calls resident,
//! files that are mapped included.
#![expect(clippy::print_stdout, reason = "a measurement prints what it found")]

use std::time::{Duration, Instant};

use eventstream_tests::eventually::{eventually_within, holds_for};
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions};
use eventstream_tests::load::{Load, rate};
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

/// Events if nothing else is said.
const EVENTS: usize = 100_000;
/// Processed events that are kept in the end.
const KEPT: usize = 1_000;
/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// How long a host is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(3);

fn main() {
    let events = events();
    line("events", &events.to_string());
    line("payload", "100 bytes");
    idle();
    let stage = filled(events);
    let stage = reopened(stage, events);
    worked_off(&stage, events);
    trimmed(stage);
}

/// `--events N`, wherever it stands.
fn events() -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--events");
    arguments.nth(1).and_then(|number| number.parse().ok()).unwrap_or(EVENTS)
}

fn idle() {
    let (store, plugins) = (Broker::Embedded.start(), PluginsDir::empty());
    let host = Host::spawn(&HostOptions::new(&store.url(), plugins.path()));
    rest(&host);
    line("memory of a host without plugins or events", &mib(host.resident_bytes()));
}

/// A host with all events waiting behind one that sleeps.
fn filled(events: usize) -> Stage {
    let plugins =
        PluginsDir::scripted(&["work"]).with_settings("work", "concurrency = 1\n[limits]\nwall_ms = 3600000\n");
    let stage = Stage::with(Broker::Embedded, plugins, |options| settings(options, events));
    rest(&stage.host);
    line("memory with one plugin", &mib(stage.host.resident_bytes()));
    stage.client.wait_for(&stage.client.post_event("work", &json!({"sleep-ms": 3_000_000})), &["running"]);

    let load = Load { senders: 4, batch: 100, events };
    let time = load.send(stage.host.url(), "work", &payload());
    line("accepted in batches of 100, in a second", &format!("{:.0}", rate(events, time)));
    line("memory with all events waiting", &mib(stage.host.resident_bytes()));
    line("  at most, until then", &mib(stage.host.peak_resident_bytes()));
    line("disk with all events waiting", &mib(stage.store.disk_bytes()));
    stage
}

/// The host is killed, and the next one starts on what waits.
fn reopened(mut stage: Stage, events: usize) -> Stage {
    stage.host.kill9();
    stage.plugins.write("work.toml", b"");
    let begun = Instant::now();
    stage.replace_host(|options| settings(options, events));
    line("until a host listens again after a kill", &seconds(begun.elapsed()));
    let client = stage.client.clone();
    eventually_within(PATIENCE, "something is at work", || {
        let metrics = client.metrics();
        if metrics["processed"].as_u64() > Some(0) { Ok(()) } else { Err(metrics) }
    });
    line("until its first event is processed", &seconds(begun.elapsed()));
    stage
}

fn worked_off(stage: &Stage, events: usize) {
    let processed = || usize::try_from(stage.client.metrics()["processed"].as_u64().unwrap_or(0)).unwrap_or(0);
    let (begun, already) = (Instant::now(), processed());
    for tenth in 1..=10 {
        let end = events / 10 * tenth;
        eventually_within(PATIENCE, "events are processed", || {
            let processed = processed();
            if processed >= end { Ok(()) } else { Err(processed) }
        });
        if matches!(tenth, 1 | 5 | 10) {
            line(&format!("memory after {end} events"), &mib(stage.host.resident_bytes()));
        }
    }
    line("worked off in a second", &format!("{:.0}", rate(events / 10 * 10 - already, begun.elapsed())));
    rest(&stage.host);
    line("memory some seconds after the last", &mib(stage.host.resident_bytes()));
    line("disk with all events processed and kept", &mib(stage.store.disk_bytes()));
}

/// The host is replaced by one that keeps few processed events.
fn trimmed(mut stage: Stage) {
    stage.host.terminate();
    stage.host.wait();
    stage.replace_host(|options| options.with("retention.processed_max", KEPT).with("log.level", "error"));
    let begun = Instant::now();
    eventually_within(PATIENCE, "processed events are forgotten", || {
        let kept = stage.client.metrics()["processedKept"].as_u64();
        if kept <= Some(KEPT as u64) { Ok(()) } else { Err(format!("{kept:?} are kept")) }
    });
    line(&format!("until all but {KEPT} are forgotten"), &seconds(begun.elapsed()));
    let mut disk_bytes = u64::MAX;
    while stage.store.disk_bytes() < disk_bytes {
        disk_bytes = stage.store.disk_bytes();
        rest(&stage.host);
    }
    line("disk after that", &mib(stage.store.disk_bytes()));
    line("memory after that", &mib(stage.host.resident_bytes()));
}

fn settings(options: HostOptions, events: usize) -> HostOptions {
    options.with("broker.max_waiting", events + 10).with("retention.processed_max", events).with("log.level", "error")
}

fn payload() -> serde_json::Value {
    json!({"key": "x".repeat(90)})
}

/// Leaves the host alone for a while, and sees that it stays.
fn rest(host: &Host) {
    holds_for(REST, "the host runs", || match host.exited() {
        None => Ok(()),
        Some(status) => Err(format!("{status}:\n{}", host.output())),
    });
}

fn line(name: &str, figure: &str) {
    println!("{name:<46} {figure:>14}");
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
