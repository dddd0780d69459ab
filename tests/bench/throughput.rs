//! How many events are accepted and worked off in a second, on both brokers.
//!
//! Run by `cargo xtask bench`. Host, store and senders share the machine, so the figures are what all of them do
//! together; those of the two brokers come from one run and may be compared. Every accepted event is on stable storage:
//! what the disk takes for that is a part of what is measured.
#![expect(clippy::print_stdout, reason = "a measurement prints what it found")]

use std::time::{Duration, Instant};

use eventstream_tests::eventually::eventually_within;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::load::{Load, rate};
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

/// Events that end when working them off is measured.
const WORKED_OFF: usize = 20_000;
/// Settings of a plugin that takes as little part as it can.
const ONE_AT_A_TIME: &str = "concurrency = 1\n";
/// Far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    println!("{:<44} {:>10} {:>10}", "events in a second", "embedded", "Redis");
    for (name, load) in [
        ("accepted one by one, 1 sender", Load { senders: 1, batch: 1, events: 2_000 }),
        ("accepted one by one, 8 senders", Load { senders: 8, batch: 1, events: 10_000 }),
        ("accepted one by one, 64 senders", Load { senders: 64, batch: 1, events: 20_000 }),
        ("accepted in batches of 100, 8 senders", Load { senders: 8, batch: 100, events: 50_000 }),
    ] {
        print(name, |broker| {
            let stage = stage(broker, ONE_AT_A_TIME);
            rate(load.events, load.send(stage.host.url(), "work", &json!({"sleep-ms": 4_000})))
        });
    }
    print("worked off, a handler that does nothing", |broker| worked_off(broker, &json!({})));
    let parent = json!({"publish": 1, "publish-type": "work", "publish-payload": {}});
    print("worked off, parents and their one child", |broker| worked_off(broker, &parent));
}

fn stage(broker: Broker, settings: &str) -> Stage {
    let plugins = PluginsDir::scripted(&["work"]).with_settings("work", settings);
    Stage::with(broker, plugins, |options| options.with("log.level", "error"))
}

/// Ends in a second. The events are accepted by a host that hardly works them off, and the next one does.
fn worked_off(broker: Broker, payload: &Value) -> f64 {
    let ends_each = if payload["publish"] == 1 { 2 } else { 1 };
    let load = Load { senders: 4, batch: 500, events: WORKED_OFF / ends_each };
    let mut stage = stage(broker, ONE_AT_A_TIME);
    load.send(stage.host.url(), "work", payload);
    stage.host.terminate();
    stage.host.wait();
    stage.plugins.write("work.toml", b"");
    stage.replace_host(|options| options.with("log.level", "error"));
    let processed = || usize::try_from(stage.client.metrics()["processed"].as_u64().unwrap_or(0)).unwrap_or(0);
    let (begun, already) = (Instant::now(), processed());
    eventually_within(PATIENCE, "all are processed", || {
        let processed = processed();
        if processed >= WORKED_OFF { Ok(()) } else { Err(processed) }
    });
    rate(WORKED_OFF - already, begun.elapsed())
}

fn print(name: &str, measure: impl Fn(Broker) -> f64) {
    let (embedded, redis) = (measure(Broker::Embedded), measure(Broker::Redis));
    println!("{name:<44} {embedded:>10.0} {redis:>10.0}");
}
