//! How many events per second a host accepts: one event in a request, 64 connections, one request in flight on each.
//!
//! The host only accepts; the figure `mixed` handles the events at the same time.

use std::time::Duration;

use anyhow::Result;
use eventstream_tests::load::Span;

use super::figure::{Figure, Plan, Row};
use super::setup::{CONNECTIONS, Ceiling, StoreKind, address, flood, host_that_only_accepts};

/// What the ratio is meant to be: floor and aim.
const TARGETS: [(StoreKind, f64, f64); 3] =
    [(StoreKind::RedisEverysec, 0.60, 0.75), (StoreKind::RedisAlways, 0.45, 0.65), (StoreKind::Embedded, 0.50, 0.70)];

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    let mut rows: Vec<Row> = TARGETS
        .iter()
        .map(|(kind, floor, aim)| Row::new(kind.name(), "events/s").against("axum 202").target(*floor, *aim))
        .collect();
    let span = Span::Time(plan.pick(Duration::from_secs(4), Duration::from_millis(800)));
    let warm_up = Span::Time(plan.pick(Duration::from_secs(1), Duration::from_millis(300)));
    for _ in 0..plan.repetitions {
        for (row, (kind, ..)) in rows.iter_mut().zip(TARGETS) {
            let ceiling = Ceiling::start()?;
            flood(ceiling.address, CONNECTIONS, warm_up)?;
            let limit = flood(ceiling.address, CONNECTIONS, span)?.rate();
            drop(ceiling);
            let store = kind.start()?;
            let (host, _plugins) = host_that_only_accepts(&store);
            let server = address(host.url())?;
            flood(server, CONNECTIONS, warm_up)?;
            row.turn(limit, flood(server, CONNECTIONS, span)?.rate());
        }
    }
    Ok(Figure { rows, ..Figure::default() })
}
