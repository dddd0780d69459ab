//! A host is killed while it works. The figure is the time until the next host listens and until it has ended its first
//! event, against the number of waiting events. Both hosts find their plugin compiled.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use eventstream_tests::eventually::eventually;
use eventstream_tests::fill::Filling;
use eventstream_tests::guests::PluginsDir;

use super::figure::{Axis, Curve, Figure, Plan, Row, Series};
use super::setup::{PAYLOAD_BYTES, StoreKind, WORK, host, idle_plugin};

/// The pause between two looks at the totals.
const LOOK: Duration = Duration::from_millis(2);
/// Far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// A plugin that handles one event and no other.
const ONE_FOR_EVER: &str = "concurrency = 1\n[limits]\nwall_ms = 3600000\n";
/// What that plugin does with its event.
const ENDLESS: &str = r#"{"sleep-ms":3500000}"#;

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    // A host that is not measured compiles the plugin first.
    drop(host(&StoreKind::Embedded.start()?, &idle_plugin()));
    let most = plan.events(1_000_000, 100_000);
    let waiting: Vec<usize> = [1_000, 100_000, 1_000_000].into_iter().filter(|events| *events <= most).collect();
    let mut figure = Figure::default();
    let mut series = Vec::new();
    for kind in [StoreKind::RedisAlways, StoreKind::Embedded] {
        let [mut listens_points, mut works_points] = [Vec::new(), Vec::new()];
        for events in &waiting {
            let [mut listens, mut works] = ["listens", "has ended its first event"]
                .map(|what| Row::new(format!("{}, {events} waiting, until it {what}", kind.name()), "ms"));
            for _ in 0..plan.pick(plan.repetitions, 1) {
                let (until_listening, until_working) = killed(kind, *events)?;
                listens.values.push(until_listening.as_secs_f64() * 1_000.0);
                works.values.push(until_working.as_secs_f64() * 1_000.0);
            }
            listens_points.push((*events as f64, listens.median()));
            works_points.push((*events as f64, works.median()));
            figure.rows.extend([listens, works]);
        }
        series.push(Series { name: format!("{}, listens", kind.name()), points: listens_points });
        series.push(Series { name: format!("{}, works", kind.name()), points: works_points });
    }
    figure.curves.push(Curve {
        file: "recovery".into(),
        title: "After kill -9".into(),
        x: Axis::logarithmic("events waiting"),
        y: Axis::linear("ms"),
        series,
    });
    Ok(figure)
}

/// From the start of the next host until it listens, and until it has ended an event.
fn killed(kind: StoreKind, events: usize) -> Result<(Duration, Duration)> {
    let store = kind.start()?;
    let endless = Filling { payload: ENDLESS.into(), ..Filling::new(1, WORK, 0) };
    endless.fill(&store.url())?;
    Filling::new(events, WORK, PAYLOAD_BYTES).fill(&store.url())?;
    // Made early: a host waits until a file that is new has come to rest.
    let of_next = idle_plugin();
    let plugins = PluginsDir::scripted(&[WORK]).with_settings(WORK, ONE_FOR_EVER);
    let first = host(&store, &plugins);
    let client = first.client();
    eventually("an event is handled", || {
        let metrics = client.metrics();
        if metrics["running"].as_u64() > Some(0) { Ok(()) } else { Err(metrics) }
    });
    first.kill9();
    let begun = Instant::now();
    let next = host(&store, &of_next);
    let (until_listening, client) = (begun.elapsed(), next.client());
    // The first host has ended nothing, so that whatever has ended was ended by this one.
    while client.metrics()["processed"].as_u64() == Some(0) {
        ensure!(begun.elapsed() < PATIENCE, "nothing has ended within {PATIENCE:?}");
        std::thread::sleep(LOOK);
    }
    Ok((until_listening, begun.elapsed()))
}
