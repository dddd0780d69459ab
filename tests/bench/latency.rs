//! The time from POST to 202 and to the end of the event, at rates that do not depend on the answers.
//!
//! Times count from when a request was due. The records of events hold milliseconds, which is too coarse, so a sample of
//! the events is asked for until their end is seen. This adds at most one request, some tenths of a millisecond.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Result, ensure};
use eventstream_tests::load::ends::Ends;
use eventstream_tests::load::{HttpLoad, LoadResult, Pace, Span, histogram, post};
use hdrhistogram::Histogram;

use super::figure::{Axis, Curve, Figure, Plan, Row, Series};
use super::mixed::at_once;
use super::setup::{CONNECTIONS, Ceiling, PAYLOAD_BYTES, StoreKind, WORK, address, host, idle_plugin};

/// Events a second whose end is looked for.
const LOOKED_AT: f64 = 250.0;
/// What part of the most that a host can do is the highest rate.
pub(super) const OF_THE_MOST: f64 = 0.8;
/// What is told of each distribution.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    let mut figure = Figure::default();
    for kind in [StoreKind::RedisEverysec, StoreKind::Embedded] {
        let most = at_once(&kind.start()?, plan.pick(Duration::from_secs(4), Duration::from_secs(1)))?;
        let highest = OF_THE_MOST * most.accepted.min(most.ended);
        let mut rates = vec![("1,000/s".to_owned(), 1_000.0)];
        if !plan.quick {
            rates.insert(0, ("200/s".to_owned(), 200.0));
            rates.push(("5,000/s".to_owned(), 5_000.0));
            rates.push((format!("80 % of the most ({highest:.0}/s)"), highest));
        }
        let mut curve = Curve {
            file: format!("latency-{}", kind.name().replace(' ', "-").to_lowercase()),
            title: format!("{}: from POST to the end", kind.name()),
            x: Axis::logarithmic("one event in"),
            y: Axis::logarithmic("ms"),
            series: Vec::new(),
        };
        for (name, rate) in rates {
            let ended = at_rate(plan, kind, &name, rate, &mut figure)?;
            curve.series.push(Series { name, points: distribution(&ended) });
        }
        figure.curves.push(curve);
    }
    figure.note(format!(
        "the benchmark finds ends by asking for {LOOKED_AT} events a second, so times are too long by up to one question"
    ));
    Ok(figure)
}

/// Adds the rows of one rate; gives all times to the end.
fn at_rate(plan: &Plan, kind: StoreKind, name: &str, rate: f64, figure: &mut Figure) -> Result<Histogram<u64>> {
    let span = plan.pick(Duration::from_secs(6), Duration::from_secs(3));
    let rows = |what: &str| {
        QUANTILES.map(|(quantile, _)| Row::new(format!("{}, {name}, {what}, {quantile}", kind.name()), "ms"))
    };
    let mut answered = rows("to 202").map(|row| row.against("axum 202"));
    let mut ended = rows("to the end");
    let mut all = histogram();
    for _ in 0..plan.pick(plan.repetitions, 1) {
        let ceiling = Ceiling::start()?;
        let limit = open_loop(ceiling.address, rate, span / 2, |_, _| {})?;
        drop(ceiling);
        let (store, plugins) = (kind.start()?, idle_plugin());
        let host = host(&store, &plugins);
        let server = address(host.url())?;
        open_loop(server, rate, Duration::from_secs(1), |_, _| {})?;
        let (ends, every, count) = (Ends::of(server)?, (rate / LOOKED_AT).max(1.0), Cell::new(0.0));
        let taken = open_loop(server, rate, span, |due, answer| {
            count.set(count.get() + 1.0);
            if count.get() >= every {
                count.set(count.get() - every);
                ends.look_at(due, answer);
            }
        })?;
        let times = ends.finish()?;
        for (index, (_, quantile)) in QUANTILES.iter().enumerate() {
            let ms = |times: &Histogram<u64>| times.value_at_quantile(*quantile) as f64 / 1_000.0;
            answered[index].turn(ms(&limit.latency_us), ms(&taken.latency_us));
            ended[index].values.push(ms(&times));
        }
        all.add(&times)?;
    }
    figure.rows.extend(answered.into_iter().chain(ended));
    Ok(all)
}

pub(super) fn open_loop(
    server: std::net::SocketAddr,
    rate: f64,
    span: Duration,
    tell: impl FnMut(std::time::Instant, &[u8]),
) -> Result<LoadResult> {
    let request = post(WORK, PAYLOAD_BYTES);
    let (pace, span) = (Pace::Open(rate), Span::Time(span));
    let taken = HttpLoad { server, connections: CONNECTIONS, request: &request, pace, span }.run_observed(tell)?;
    ensure!(taken.refused.0 == 0, "{:?} requests were refused", taken.refused);
    Ok(taken)
}

/// How long the slowest of so many takes: points up to the slowest that was seen ten times.
fn distribution(times_us: &Histogram<u64>) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let mut one_in = 1.0;
    while one_in <= (times_us.len() as f64 / 10.0).max(10.0) {
        points.push((one_in, times_us.value_at_quantile(1.0 - 1.0 / one_in).max(1) as f64 / 1_000.0));
        one_in *= 1.25;
    }
    points
}
