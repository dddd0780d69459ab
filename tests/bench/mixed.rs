//! Accepting and handling at the same time: a closed loop of single events on 64 connections, with a component that
//! does nothing.
//!
//! The number of ended events compared with accepted ones shows how far handling keeps pace on the same cores.

use std::time::Duration;

use anyhow::Result;
use eventstream_tests::host::Host;
use eventstream_tests::load::Span;
use eventstream_tests::store::Store;

use super::figure::{Figure, Plan, Row};
use super::setup::{CONNECTIONS, Ceiling, StoreKind, address, flood, host, idle_plugin};

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    let span = plan.pick(Duration::from_secs(5), Duration::from_secs(1));
    let mut figure = Figure::default();
    for kind in [StoreKind::RedisEverysec, StoreKind::Embedded] {
        let mut accepted = Row::new(format!("{}, accepted", kind.name()), "events/s").against("axum 202");
        let mut ended = Row::new(format!("{}, ended", kind.name()), "events/s").against("accepted meanwhile");
        for _ in 0..plan.repetitions {
            let ceiling = Ceiling::start()?;
            let limit = flood(ceiling.address, CONNECTIONS, Span::Time(span / 2))?.rate();
            drop(ceiling);
            let rates = at_once(&kind.start()?, span)?;
            accepted.turn(limit, rates.accepted);
            ended.turn(rates.accepted, rates.ended);
        }
        figure.rows.extend([accepted, ended]);
    }
    Ok(figure)
}

/// What happens in a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) accepted: f64,
    pub(super) ended: f64,
}

/// Floods a host on this store for so long.
pub(super) fn at_once(store: &Store, span: Duration) -> Result<Rates> {
    let plugins = idle_plugin();
    let ((rates, _), ..) = under_load(&host(store, &plugins), span, || Ok(()))?;
    Ok(rates)
}

/// Floods a host for so long. Gives the rates and the number of ends, and what `look` saw before and after.
pub(super) fn under_load<T>(host: &Host, span: Duration, look: impl Fn() -> Result<T>) -> Result<((Rates, f64), T, T)> {
    let (server, client) = (address(host.url())?, host.client());
    let ended = || client.metrics()["processed"].as_u64().unwrap_or(0) as f64;
    flood(server, CONNECTIONS, Span::Time(span / 4))?;
    let (ended_before, before) = (ended(), look()?);
    let taken = flood(server, CONNECTIONS, Span::Time(span))?;
    let (events, after) = (ended() - ended_before, look()?);
    let rates = Rates { accepted: taken.rate(), ended: events / taken.elapsed.as_secs_f64() };
    Ok(((rates, events), before, after))
}
