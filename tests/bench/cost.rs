//! The CPU time and the wall time that the host needs for an event. They are measured against the number of waiting events,
//! the payload size, and the numbers of plugins, of due retries and of connections.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eventstream::event::DeliveryStart;
use eventstream_tests::eventually::eventually_within;
use eventstream_tests::fill::Filling;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::Host;
use eventstream_tests::layout;
use eventstream_tests::load::{HttpLoad, Pace, Span, post};
use eventstream_tests::redis::RedisServer;
use eventstream_tests::store::Store;

use super::figure::{Axis, Curve, Figure, Plan, Row, Series, grouped};
use super::setup::{CONNECTIONS, Drained, PAYLOAD_BYTES, StoreKind, WORK, accepted, address, drain, host, idle_plugin};

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(300);
/// The brokers that are told apart.
const KINDS: [StoreKind; 2] = [StoreKind::RedisEverysec, StoreKind::Embedded];

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    let mut figure = Figure::default();
    let waiting = CostCurve {
        name: "waiting",
        label: "events waiting",
        values: if plan.quick { vec![1_000, 100_000] } else { vec![1_000, 100_000, 1_000_000] },
        target: Some((1.2, 1.05)),
        turns: plan.pick(plan.repetitions, 1),
    };
    waiting.ask(&mut figure, |kind, waiting| {
        let (store, plugins, ends) = (kind.start()?, idle_plugin(), plan.events(50_000, 20_000));
        Filling::new(waiting + ends, WORK, PAYLOAD_BYTES).fill(&store.url())?;
        // A host has a Redis write its log anew that has not since it started, which takes the longer the more waits.
        if let Store::Redis(server) = &store {
            rewritten(server)?;
        }
        drain(&host(&store, &plugins), ends as u64, plan.pick(Duration::from_secs(10), Duration::from_secs(3)))
    })?;
    let plugins = CostCurve {
        name: "plugins",
        label: "plugins loaded",
        values: vec![1, 100],
        target: Some((1.1, 1.02)),
        turns: plan.repetitions,
    };
    plugins.ask(&mut figure, |kind, count| {
        let plugins = idle_plugin();
        (1..count).for_each(|n| plugins.put(&format!("other-{n}"), &layout::guest("idle")));
        through(&kind.start()?, &plugins, PAYLOAD_BYTES, CONNECTIONS, plan.events(20_000, 5_000))
    })?;
    let other = |name, label, values| CostCurve { name, label, values, target: None, turns: 1 };
    other("payload", "bytes of a payload", vec![100, 1_024, 16_384, 262_144 - 64]).ask(
        &mut figure,
        |kind, bytes| {
            let events = (plan.events(20_000, 5_000) * 1_000 / (1_000 + bytes)).max(1_000);
            through(&kind.start()?, &idle_plugin(), bytes, 16, events)
        },
    )?;
    other("retries", "retries to come", vec![0, 100_000]).ask(&mut figure, |kind, retries| {
        let store = kind.start()?;
        let start = DeliveryStart::InMs(3_600_000);
        Filling { start, ..Filling::new(retries, WORK, PAYLOAD_BYTES) }.fill(&store.url())?;
        through(&store, &idle_plugin(), PAYLOAD_BYTES, CONNECTIONS, plan.events(20_000, 5_000))
    })?;
    other("connections", "connections", vec![1, 64, 1_000]).ask(&mut figure, |kind, connections| {
        let events = if connections == 1 { plan.events(5_000, 2_000) } else { plan.events(20_000, 5_000) };
        through(&kind.start()?, &idle_plugin(), PAYLOAD_BYTES, connections, events)
    })?;
    figure.note("waiting: from the claim to the end, for events that were stored before. All others: from the POST of single events to the end, accepted and handled at once");
    Ok(figure)
}

/// Has the log of a server written anew, and waits for the end of that.
fn rewritten(server: &RedisServer) -> Result<()> {
    // Refused where it is under way by itself, since the log has grown so much.
    let asked: Result<String> = server.command(&["BGREWRITEAOF"]);
    let is_done = eventually_within(PATIENCE, "the log was written anew", || {
        let facts = server.command::<String>(&["INFO", "persistence"]).map_err(|error| error.to_string())?;
        let is = |fact: &str| facts.lines().any(|line| line == fact);
        if is("aof_rewrite_in_progress:0") && is("aof_rewrite_scheduled:0") {
            Ok(!is("aof_rewrites:0"))
        } else {
            Err(facts)
        }
    });
    ensure!(is_done, "Redis does not write its log anew: {asked:?}");
    Ok(())
}

/// What the cost is asked against.
struct CostCurve {
    name: &'static str,
    label: &'static str,
    values: Vec<usize>,
    target: Option<(f64, f64)>,
    turns: usize,
}

impl CostCurve {
    fn ask(&self, figure: &mut Figure, cost: impl Fn(StoreKind, usize) -> Result<Drained>) -> Result<()> {
        let (mut cpu_series, mut wall_series) = (Vec::new(), Vec::new());
        for kind in KINDS {
            let mut costs: Vec<Vec<Drained>> = vec![Vec::new(); self.values.len()];
            for _ in 0..self.turns {
                for (values, x) in costs.iter_mut().zip(&self.values) {
                    let what = || format!("{}, {} {}", kind.name(), grouped(*x as u64), self.label);
                    values.push(cost(kind, *x).with_context(what)?);
                }
            }
            let least = format!("{} {}", grouped(self.values[0] as u64), self.label);
            let [mut cpu_points, mut wall_points] = [Vec::new(), Vec::new()];
            for (costs_here, x) in costs.iter().zip(&self.values) {
                let is_least = *x == self.values[0];
                let [mut cpu, mut wall] = ["CPU", "wall"].map(|what| {
                    let row = Row::new(format!("{}, {} {}, {what}", kind.name(), grouped(*x as u64), self.label), "µs");
                    if is_least { row } else { row.against(&least) }
                });
                for (here, least) in costs_here.iter().zip(&costs[0]) {
                    cpu.turn(least.cpu_us, here.cpu_us);
                    wall.turn(1e6 / least.rate, 1e6 / here.rate);
                }
                if let Some((floor, aim)) = self.target.filter(|_| Some(x) == self.values.last()) {
                    (cpu, wall) = (cpu.target(floor, aim), wall.target(floor, aim));
                }
                cpu_points.push((*x as f64, cpu.median()));
                wall_points.push((*x as f64, wall.median()));
                figure.rows.extend([cpu, wall]);
            }
            cpu_series.push(Series { name: format!("{}, CPU of the host", kind.name()), points: cpu_points });
            wall_series.push(Series { name: format!("{}, wall", kind.name()), points: wall_points });
        }
        figure.curves.push(Curve {
            file: format!("cost-{}", self.name),
            title: format!("Cost of an event against {}", self.label),
            x: Axis::logarithmic(self.label),
            y: Axis::linear("µs for an event"),
            series: cpu_series.into_iter().chain(wall_series).collect(),
        });
        Ok(())
    }
}

/// Sends so many events one by one to a host that handles them meanwhile, until all have ended.
fn through(
    store: &Store,
    plugins: &PluginsDir,
    payload_bytes: usize,
    connections: usize,
    events: usize,
) -> Result<Drained> {
    let host = host(store, plugins);
    let (server, request) = (address(host.url())?, post(WORK, payload_bytes));
    let load = |requests: usize| {
        let (pace, span) = (Pace::Closed, Span::Requests(requests as u64));
        accepted(&HttpLoad { server, connections, request: &request, pace, span })
    };
    let before = events / 10;
    load(before)?;
    wait_for(&host, before as u64);
    let (cpu, begun) = (host.cpu_time(), std::time::Instant::now());
    load(events)?;
    wait_for(&host, (before + events) as u64);
    let cpu_us = (host.cpu_time() - cpu).as_secs_f64() * 1e6 / events as f64;
    Ok(Drained { rate: events as f64 / begun.elapsed().as_secs_f64(), cpu_us })
}

/// Waits until so many have ended.
fn wait_for(host: &Host, ends: u64) {
    let client = host.client();
    eventually_within(PATIENCE, "the events have ended", || {
        let done = client.metrics()["processed"].as_u64().unwrap_or(0);
        if done >= ends { Ok(()) } else { Err(format!("{done} of {ends}")) }
    });
}
