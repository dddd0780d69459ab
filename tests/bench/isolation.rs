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
    println!("{:<46} {:>9} {:>9} {:>7} {:>7}", "quick events", "p50, ms", "p99, ms", "p50 x", "p99 x");
    let alone = measure(&stage());
    print("alone", alone, alone);
    for (name, trouble) in [
        ("beside 10,000 that wait for a sleeping plugin", json!({"sleep-ms": 2_000})),
        ("beside 10,000 that wait for a looping plugin", json!({"do": "loop"})),
        ("beside 10,000 that wait for a hungry plugin", json!({"do": "allocate"})),
        ("beside 10,000 that wait for a trapping plugin", json!({"spin-ms": 20, "do": "trap"})),
    ] {
        let stage = stage();
        for _ in 0..CROWD / 1_000 {
            stage.client.post_batch(&vec![json!({"type": "neighbor", "payload": trouble}); 1_000]);
        }
        let beside = measure(&stage);
        print(name, beside, alone);
        let waiting = stage.client.metrics()["lanes"]["neighbor"].as_u64().unwrap_or(0);
        assert!(waiting > 0, "the neighbor's events ended too early for this to mean anything");
    }
}

fn stage() -> Stage {
    Stage::with(Broker::Embedded, PluginsDir::scripted(&["quick", "neighbor"]), |options| {
        options.with("log.level", "error")
    })
}

/// The median and the 99th percentile, in milliseconds.
fn measure(stage: &Stage) -> (f64, f64) {
    for _ in 0..SAMPLES / 10 {
        one(&stage.client);
    }
    let mut times: Vec<f64> = (0..SAMPLES).map(|_| one(&stage.client).as_secs_f64() * 1_000.0).collect();
    times.sort_by(f64::total_cmp);
    (times[SAMPLES / 2], times[SAMPLES * 99 / 100])
}

fn one(client: &Client) -> Duration {
    std::thread::sleep(PAUSE);
    let begun = Instant::now();
    let id = client.post_event("quick", &json!({}));
    loop {
        if client.event(&id).unwrap().ended_at.is_some() {
            return begun.elapsed();
        }
    }
}

fn print(name: &str, (p50, p99): (f64, f64), (base50, base99): (f64, f64)) {
    println!("{name:<46} {p50:>9.2} {p99:>9.2} {:>7.2} {:>7.2}", p50 / base50, p99 / base99);
}
