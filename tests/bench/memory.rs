//! Memory of the host and size of the store: idle, under load, after millions of events.
//!
//! Memory is the resident size that the kernel reports, including mapped files.

use std::time::Duration;

use anyhow::Result;
use eventstream_tests::eventually::{eventually_within, holds_for};
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::Host;
use eventstream_tests::load::{HttpLoad, Pace, Span, post_batch};

use super::figure::{Axis, Curve, Figure, Plan, Row, Series};
use super::setup::{CONNECTIONS, PAYLOAD_BYTES, StoreKind, WORK, accepted, address, flood, host, idle_plugin};

/// Events in one request where it is about many.
const BATCH: usize = 500;
/// How many of them may be ahead of the handlers.
const AHEAD: usize = 50_000;
/// Looks at the memory on the way.
const LOOKS: usize = 10;
/// How long a host is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(2);
/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    let mut figure = Figure::default();
    let mut series = Vec::new();
    for kind in [StoreKind::RedisEverysec, StoreKind::Embedded] {
        let events = match kind {
            StoreKind::Embedded => plan.events(10_000_000, 100_000),
            _ => plan.events(1_000_000, 100_000),
        };
        let store = kind.start()?;
        let mut line = |name: &str, bytes: u64| {
            let row = Row::new(format!("{}: {name}", kind.name()), "MiB");
            figure.rows.push(row.with(mib(bytes)));
        };
        {
            let none = PluginsDir::empty();
            let bare = host(&store, &none);
            rest(&bare);
            line("host without a plugin", bare.resident_bytes());
            bare.terminate();
            bare.wait();
        }
        let plugins = idle_plugin();
        let host = host(&store, &plugins);
        rest(&host);
        line("host with one plugin, idle", host.resident_bytes());
        let server = address(host.url())?;
        flood(server, CONNECTIONS, Span::Time(plan.pick(Duration::from_secs(5), Duration::from_secs(1))))?;
        line("under load, 64 connections, accepting and working off", host.peak_resident_bytes());
        let points = many(&host, server, events)?;
        rest(&host);
        line(&format!("after {events} events"), host.resident_bytes());
        line(&format!("after {events} events, at the most"), host.peak_resident_bytes());
        line(&format!("after {events} events, the store on disk"), store.disk_bytes());
        series.push(Series { name: kind.name().into(), points });
    }
    figure.curves.push(Curve {
        file: "memory".into(),
        title: "Memory of the host".into(),
        x: Axis::linear("events handled, millions"),
        y: Axis::linear("MiB"),
        series,
    });
    figure.note("the store keeps the newest million processed events, the default");
    Ok(figure)
}

/// Sends so many events, not far ahead of the handlers; memory on the way.
fn many(host: &Host, server: std::net::SocketAddr, events: usize) -> Result<Vec<(f64, f64)>> {
    let (client, request) = (host.client(), post_batch(WORK, PAYLOAD_BYTES, BATCH));
    let processed = || usize::try_from(client.metrics()["processed"].as_u64().unwrap_or(0)).unwrap_or(0);
    let waiting = || client.metrics()["waiting"].as_u64().unwrap_or(0);
    let settled = |most: u64| {
        eventually_within(PATIENCE, "what waits is worked off", || {
            let waiting = waiting();
            if waiting <= most { Ok(()) } else { Err(waiting) }
        });
    };
    settled(0);
    let before = processed();
    let mut points = vec![(0.0, mib(host.resident_bytes()))];
    let (mut sent, mut looks) = (0, 0);
    while sent < events {
        let requests = (events - sent).min(AHEAD).div_ceil(BATCH);
        let (pace, span) = (Pace::Closed, Span::Requests(requests as u64));
        accepted(&HttpLoad { server, connections: 2, request: &request, pace, span })?;
        sent += requests * BATCH;
        settled(AHEAD as u64 / 2);
        if sent * LOOKS >= events * (looks + 1) {
            looks += 1;
            points.push(((processed() - before) as f64 / 1e6, mib(host.resident_bytes())));
        }
    }
    settled(0);
    Ok(points)
}

/// Leaves the host alone for a while, and sees that it stays.
fn rest(host: &Host) {
    holds_for(REST, "the host runs", || match host.exited() {
        None => Ok(()),
        Some(status) => Err(format!("{status}:\n{}", host.output())),
    });
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
