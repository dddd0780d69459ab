//! How many waiting events per second a host processes with a Rust component that does nothing, in a fresh instance for
//! each event.
//!
//! The events are put into the store without a server, so that the host does nothing else meanwhile. The clock runs from
//! the first end to the last, or for some seconds, and not from the start of the process.

use std::time::Duration;

use anyhow::Result;
use eventstream_tests::fill::Filling;
use eventstream_tests::store::Store;

use super::figure::{Figure, Plan, Row};
use super::setup::{PAYLOAD_BYTES, StoreKind, WORK, drain, host, idle_plugin, limit};

pub(super) fn measure(plan: &Plan) -> Result<Figure> {
    let events = plan.events(200_000, 30_000);
    let number = events.to_string();
    let bytes = PAYLOAD_BYTES.to_string();
    let mut figure = Figure::default();
    for kind in [StoreKind::RedisEverysec, StoreKind::RedisAlways, StoreKind::Embedded] {
        let (native, beside, bare) = match kind {
            StoreKind::Embedded => ("native on the same broker", "SQLite", "bare SQLite"),
            _ => ("native, one script a batch", "history", "native, with history"),
        };
        let mut row = Row::new(kind.name(), "events/s").against(native).target(0.40, 0.60);
        let mut second = Row::new(format!("{}, beside {beside}", kind.name()), "events/s").against(bare);
        for turn in 0..plan.repetitions {
            let is_last = turn + 1 == plan.repetitions;
            let run = |which: usize| -> Result<f64> {
                match kind.start()? {
                    Store::Redis(server) => {
                        limit(&["redis", &server.url(), &number, &bytes, ["commit", "history"][which]])
                    }
                    Store::Embedded(folder) => {
                        let directory = folder.path().to_string_lossy();
                        limit(&[["embedded", "sqlite"][which], &directory, &number, &bytes])
                    }
                }
            };
            let native = run(0)?;
            let rate = product(kind, events, plan.pick(Duration::from_secs(15), Duration::from_secs(3)))?;
            row.turn(native, rate);
            if !plan.quick || is_last {
                second.turn(run(1)?, rate);
            }
        }
        figure.rows.extend([row, second]);
    }
    figure.note("native on Redis: one script call for each batch of up to 500 checks each entry's owner, acknowledges and deletes. With history it also adds each payload to a second stream. The product adds the whole record");
    figure.note("native on the embedded store: the product's own broker with history, but no worker and no plugin. Bare SQLite: two tables, one sync for every 500 events");
    Ok(figure)
}

fn product(kind: StoreKind, events: usize, most: Duration) -> Result<f64> {
    let (store, plugins) = (kind.start()?, idle_plugin());
    Filling::new(events, WORK, PAYLOAD_BYTES).fill(&store.url())?;
    Ok(drain(&host(&store, &plugins), events as u64, most)?.rate)
}
