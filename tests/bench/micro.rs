//! The steps of an event, each by itself: reading a POST, a plugin call, the decision, a batch that is claimed and settled.
//!
//! Plain loops within this process; the median of some turns.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use eventstream::broker::{ClaimRequest, LaneDemand};
use eventstream::clock;
use eventstream::event::{
    AttemptFailure, AttemptOutcome, EventLimits, EventRecord, FailureClass, ParsedBody, RetryPolicies,
    decide_settlement,
};
use eventstream::shutdown::TaskGroup;
use eventstream_tests::fill::{self, Filling};
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::{layout, native};

use super::calls;
use super::figure::{Figure, Plan, Row};
use super::setup::{PAYLOAD_BYTES, StoreKind, WORK};

/// Handlers whose calls are timed: a name, the component if it was built, and a payload.
type Guest = (&'static str, fn() -> Option<PathBuf>, &'static str);
const GUESTS: [Guest; 3] = [
    ("Rust that does nothing", || Some(layout::guest("idle")), "{}"),
    ("JavaScript that counts", || layout::find_project_plugin("page-views-js"), r#"{"page":"/a"}"#),
    (
        "Python that scores",
        || layout::find_project_plugin("order-score-python"),
        r#"{"country":"NL","card_country":"NL","amount_cents":1200,"orders_before":3,"lines":[{"quantity":1}]}"#,
    ),
];

/// Deliveries of a claim and of a settle.
const BATCH: usize = 100;

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    let span = Duration::from_millis(plan.pick(500, 100));
    let mut figure = Figure::default();
    for (name, bytes) in [("200 bytes", PAYLOAD_BYTES), ("16 KiB", 16_384), ("256 KiB", 262_000)] {
        let body = body(bytes);
        let mut row = Row::new(format!("read and check a POST of {name}"), "µs");
        for _ in 0..plan.repetitions {
            row = row.with(time_us(span, || read(&body).map(drop))?);
        }
        figure.rows.push(row);
    }
    let mut decision = Row::new("decide about a failure", "µs");
    let failed = AttemptOutcome::Failed(AttemptFailure::new(FailureClass::Trap, "it trapped"));
    let policies = RetryPolicies::default();
    for _ in 0..plan.repetitions {
        let decided = || {
            black_box(decide_settlement(black_box(&failed), 2, &policies, 0.5));
            Ok(())
        };
        decision = decision.with(time_us(span, decided)?);
    }
    figure.rows.push(decision);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        for (guest, component, payload) in GUESTS {
            let Some(component) = component() else {
                figure.note(format!("{guest}: not built, left out; `cargo xtask test` builds it"));
                continue;
            };
            for (how, settings) in [("a fresh instance for each", ""), ("an instance used again", "reuse = {}")] {
                let settings = format!("types = [\"{WORK}\"]\n{settings}");
                let plugins = PluginsDir::empty().with_settings(WORK, &settings);
                plugins.put(WORK, &component);
                let name = format!("a call, {guest}, {how}");
                figure.rows.push(one_call_at_a_time(plan, span, name, &plugins, payload).await?);
            }
        }
        for kind in [StoreKind::RedisEverysec, StoreKind::RedisAlways, StoreKind::Embedded] {
            figure.rows.extend(batches(plan, kind).await?);
        }
        Ok(figure)
    })
}

fn body(payload_bytes: usize) -> Bytes {
    let payload = eventstream_tests::load::payload(payload_bytes);
    Bytes::from(format!("{{\"type\":\"{WORK}\",\"payload\":{payload}}}"))
}

/// What the server does with a body before the broker has it.
fn read(body: &Bytes) -> Result<EventRecord> {
    let limits = EventLimits::default();
    let draft = ParsedBody::parse(black_box(body), &limits)?;
    let events = draft.validate(&limits, clock::now(), None)?;
    Ok(EventRecord::new(events.into_iter().next().context("there is one event")?.event))
}

/// How long one turn takes, in microseconds.
fn time_us(span: Duration, mut turn: impl FnMut() -> Result<()>) -> Result<f64> {
    let (begun, mut turns) = (Instant::now(), 0_u32);
    while begun.elapsed() < span {
        for _ in 0..16 {
            turn()?;
        }
        turns += 16;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(turns))
}

async fn one_call_at_a_time(
    plan: &Plan,
    span: Duration,
    name: String,
    plugins: &PluginsDir,
    payload: &str,
) -> Result<Row> {
    let (registry, plugin) = calls::load(plugins).await?;
    let mut row = Row::new(name, "µs");
    for _ in 0..plan.repetitions {
        row = row.with(1e6 / calls::rate(&registry, &plugin, 1, span, payload).await?);
    }
    Ok(row)
}

/// Claims and settles, each for an event in a batch.
async fn batches(plan: &Plan, kind: StoreKind) -> Result<[Row; 2]> {
    let store = kind.start()?;
    let tasks = TaskGroup::new();
    let broker = fill::open(&store.url(), &tasks).await?;
    let rounds = plan.pick(50, 20);
    let [mut claims, mut settles] = ["claim", "settle"]
        .map(|what| Row::new(format!("{}: {what} {BATCH} together, for an event", kind.name()), "µs"));
    for _ in 0..plan.repetitions {
        Filling::new(BATCH * rounds, WORK, PAYLOAD_BYTES).append(broker.as_ref()).await?;
        let (mut claiming, mut settling) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..rounds {
            let lanes = vec![LaneDemand { lane: WORK.parse()?, free: BATCH }];
            let begun = Instant::now();
            let deliveries = broker.claim(ClaimRequest { lanes, max: BATCH }).await?;
            claiming += begun.elapsed();
            ensure!(deliveries.len() == BATCH, "a claim gave {} of {BATCH}", deliveries.len());
            let batch = deliveries.into_iter().map(native::processed).collect();
            let begun = Instant::now();
            broker.settle(batch).await?;
            settling += begun.elapsed();
        }
        let for_an_event = |time: Duration| time.as_secs_f64() * 1e6 / (BATCH * rounds) as f64;
        claims.values.push(for_an_event(claiming));
        settles.values.push(for_an_event(settling));
    }
    broker.close().await?;
    drop(broker);
    tasks.stop_token().cancel();
    tasks.ended().await;
    Ok([claims, settles])
}
