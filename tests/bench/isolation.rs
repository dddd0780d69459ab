//! How much a plugin in trouble delays the events of another plugin: the time from sending an event to seeing its end.
//!
//! The other plugin sleeps, loops, fills its memory, or computes and traps, while thousands of its events wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use eventstream_tests::client::Client;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::Host;
use eventstream_tests::store::Store;
use serde_json::{Value, json};

use super::figure::{Figure, Plan, Row, median};
use super::setup::{StoreKind, host};

/// The pause between two events.
const PAUSE: Duration = Duration::from_millis(5);
/// Events that wait for the neighbor.
const CROWD: usize = 10_000;
/// The plugin in trouble.
const NEIGHBOR: &str = "neighbor";

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    let samples = plan.pick(400, 150);
    let troubles = [
        ("sleeps", json!({"sleep-ms": 2_000})),
        ("loops", json!({"do": "loop"})),
        ("fills its memory", json!({"do": "allocate"})),
        ("computes for 20 ms and traps", json!({"spin-ms": 20, "do": "trap"})),
    ];
    let mut figure = Figure::default();
    for kind in [StoreKind::RedisAlways, StoreKind::Embedded] {
        for (name, trouble) in &troubles {
            let row =
                |what: &str| Row::new(format!("{}, the other {name}, {what}", kind.name()), "ms").against("alone");
            let (mut p50, mut p99) = (row("p50"), row("p99"));
            for _ in 0..plan.pick(plan.repetitions, 1) {
                let alone = Street::open(kind)?.latency_ms(samples)?;
                let street = Street::open(kind)?;
                street.crowd(trouble);
                let beside = street.latency_ms(samples)?;
                ensure!(street.still_waits(), "the neighbor's events ended too early for this to mean anything");
                p50.turn(alone.0, beside.0);
                p99.turn(alone.1, beside.1);
            }
            figure.rows.extend([p50, p99]);
        }
    }
    figure.note(format!("{CROWD} events wait for the other plugin. The measured plugin gets one about every 5 ms"));
    Ok(figure)
}

/// A host with two plugins.
struct Street {
    // Before the store and the plugins, so that it ends first.
    host: Host,
    client: Client,
    _store: Store,
    _plugins: PluginsDir,
}

impl Street {
    fn open(kind: StoreKind) -> Result<Self> {
        let (store, plugins) = (kind.start()?, PluginsDir::scripted(&["quick", NEIGHBOR]));
        let host = host(&store, &plugins);
        let client = host.client();
        Ok(Self { host, client, _store: store, _plugins: plugins })
    }

    fn crowd(&self, trouble: &Value) {
        for _ in 0..CROWD / 1_000 {
            self.client.post_batch(&vec![json!({"type": NEIGHBOR, "payload": trouble}); 1_000]);
        }
    }

    fn still_waits(&self) -> bool {
        self.host.exited().is_none() && self.client.metrics()["lanes"][NEIGHBOR].as_u64() > Some(0)
    }

    /// Median and 99th percentile, in milliseconds.
    fn latency_ms(&self, samples: usize) -> Result<(f64, f64)> {
        for _ in 0..samples / 10 {
            self.one_ms()?;
        }
        let mut times = (0..samples).map(|_| self.one_ms()).collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        let p99 = times.get(samples * 99 / 100).context("there are samples")?;
        Ok((median(&times), *p99))
    }

    fn one_ms(&self) -> Result<f64> {
        std::thread::sleep(PAUSE);
        let begun = Instant::now();
        let id = self.client.post_event("quick", &json!({}));
        loop {
            let event = self.client.event(&id).context("an accepted event is there")?;
            if event.ended_at.is_some() {
                return Ok(begun.elapsed().as_secs_f64() * 1_000.0);
            }
        }
    }
}
