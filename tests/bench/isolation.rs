//! How much the events of one plugin feel of the trouble of another: the time from sending an event to seeing its end,
//! alone and beside a plugin that sleeps, loops, fills its memory or has thousands of events waiting.
//!
//! Run by `cargo xtask bench`. The figures are ratios within one run on one machine; only these mean anything.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement prints what it found, or why it could not"
)]

use std::time::{Duration, Instant};

use eventstream_tests::client::Client;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

/// Events measured per scenario.
const SAMPLES: usize = 400;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_millis(5);
/// Events that wait for the neighbor.
const CROWD: usize = 10_000;

fn main() {
    for broker in [Broker::Embedded, Broker::Redis] {
        println!("\n{broker:?}");
        println!(
            "{:<46} {:>9} {:>9} {:>7} {:>7} {:>16}",
            "quick events", "p50, ms", "p99, ms", "p50 x", "p99 x", "p99 in plugin, ms"
        );
        let alone = measure(&stage(broker));
        print("alone", alone, alone);
        for (name, trouble) in [
            ("beside 10,000 that wait for a sleeping plugin", json!({"sleep-ms": 2_000})),
            ("beside 10,000 that wait for a looping plugin", json!({"do": "loop"})),
            ("beside 10,000 that wait for a hungry plugin", json!({"do": "allocate"})),
            ("beside 10,000 that wait for a trapping plugin", json!({"spin-ms": 20, "do": "trap"})),
        ] {
            let stage = stage(broker);
            for _ in 0..CROWD / 1_000 {
                stage.client.post_batch(&vec![json!({"type": "neighbor", "payload": trouble}); 1_000]);
            }
            print(name, measure(&stage), alone);
            let waiting = stage.client.metrics()["lanes"]["neighbor"].as_u64().unwrap_or(0);
            assert!(waiting > 0, "the neighbor's events ended too early for this to mean anything");
        }
    }
}

fn stage(broker: Broker) -> Stage {
    Stage::with(broker, PluginsDir::scripted(&["quick", "neighbor"]), |options| options.with("log.level", "error"))
}

/// What a sender felt, in milliseconds, and how much of it the plugin's own attempts took.
#[derive(Clone, Copy)]
struct Latency {
    p50_ms: f64,
    p99_ms: f64,
    handler_p99_ms: f64,
}

fn measure(stage: &Stage) -> Latency {
    for _ in 0..SAMPLES / 10 {
        one(&stage.client);
    }
    let (mut totals, mut handlers): (Vec<f64>, Vec<f64>) = (0..SAMPLES).map(|_| one(&stage.client)).unzip();
    totals.sort_by(f64::total_cmp);
    handlers.sort_by(f64::total_cmp);
    let p99 = SAMPLES * 99 / 100;
    Latency { p50_ms: totals[SAMPLES / 2], p99_ms: totals[p99], handler_p99_ms: handlers[p99] }
}

/// From sending an event to seeing its end, and the time of its attempts, in milliseconds.
fn one(client: &Client) -> (f64, f64) {
    std::thread::sleep(PAUSE);
    let begun = Instant::now();
    let id = client.post_event("quick", &json!({}));
    loop {
        let event = client.event(&id).unwrap();
        if event.ended_at.is_some() {
            let total_ms = begun.elapsed().as_secs_f64() * 1_000.0;
            return (total_ms, event.attempts.iter().map(|attempt| attempt.duration_ms).sum());
        }
    }
}

fn print(name: &str, here: Latency, alone: Latency) {
    let (p50, p99) = (here.p50_ms / alone.p50_ms, here.p99_ms / alone.p99_ms);
    println!(
        "{name:<46} {:>9.2} {:>9.2} {p50:>7.2} {p99:>7.2} {:>16.2}",
        here.p50_ms, here.p99_ms, here.handler_p99_ms
    );
}
