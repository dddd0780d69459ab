//! The limit of working off on the embedded store: the product's own broker with a native handler that does nothing, and
//! no worker, plugin or server around it.
//!
//! Two consumers take turns, so that one claims while the other's batch is committed. The record of each event with its
//! attempt is written to the history, as in the product.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use eventstream::broker::{ClaimRequest, Lane, LaneDemand, SettleOutcome, WorkQueue};
use eventstream::shutdown::TaskGroup;
use eventstream_tests::fill::{self, Filling};
use eventstream_tests::native;

const LANE: &str = "limit";
/// Deliveries of a claim and of a settle.
const BATCH: usize = 500;

/// Fills a store in this directory and works it off; events in a second.
pub(super) fn run(directory: &str, events: usize, payload_bytes: usize) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let tasks = TaskGroup::new();
        let broker = fill::open(&format!("embedded:{directory}"), &tasks).await?;
        Filling::new(events, LANE, payload_bytes).append(broker.as_ref()).await?;
        let (done, begun) = (AtomicUsize::new(0), Instant::now());
        tokio::try_join!(consume(broker.as_ref(), &done), consume(broker.as_ref(), &done))?;
        let rate = events as f64 / begun.elapsed().as_secs_f64();
        ensure!(done.into_inner() == events, "not every event was settled");
        broker.close().await?;
        tasks.stop_token().cancel();
        Ok(rate)
    })
}

async fn consume(broker: &dyn WorkQueue, done: &AtomicUsize) -> Result<()> {
    let lane: Lane = LANE.parse()?;
    loop {
        let lanes = vec![LaneDemand { lane: lane.clone(), free: BATCH }];
        let deliveries = broker.claim(ClaimRequest { lanes, max: BATCH }).await?;
        if deliveries.is_empty() {
            return Ok(());
        }
        let settled = broker.settle(deliveries.into_iter().map(native::processed).collect()).await?;
        ensure!(settled.iter().all(|settled| *settled == SettleOutcome::Done), "nobody else holds them");
        done.fetch_add(settled.len(), Ordering::Relaxed);
    }
}
