//! Takes over the deliveries of consumers that died, one at a time and never two.
//!
//! What took its host down may do so again. Whoever is handled here is alone in that: the next suspect is taken only
//! when the last one was settled, so that a crash is counted against the one that caused it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plugin::GuestJob;
use crate::shutdown::TaskGroup;

use super::WorkerState;
use super::queue::DeliveryGuard;
use super::settle::SettleBackoff;

/// Runs until the worker stops.
pub(super) async fn run(shared: Arc<WorkerState>, tasks: TaskGroup) -> anyhow::Result<()> {
    let idle = (shared.options.lease / 6).clamp(Duration::from_millis(50), Duration::from_secs(2));
    let mut backoff = SettleBackoff::default();
    while !shared.stop.is_cancelled() {
        let asked = Instant::now();
        let pause = match shared.work_queue.recover(1).await {
            Ok(suspects) if suspects.is_empty() => {
                backoff.reset();
                idle.mul_f64(0.75 + fastrand::f64() / 2.0)
            }
            Ok(suspects) => {
                backoff.reset();
                for suspect in suspects {
                    shared.queue.came(&suspect);
                    tracing::info!(
                        event.id = %suspect.receipt.event_id, lane = %suspect.receipt.lane, deliveries = suspect.deliveries,
                        "delivery taken over from a consumer that is gone"
                    );
                    let hold = shared.held.hold(&suspect.receipt, asked);
                    let (custody, is_over) = DeliveryGuard::alone(hold, tasks.token());
                    let (worker, token) = (shared.clone(), tasks.token());
                    shared.plugins.work(GuestJob::new(|meter| async move {
                        worker.work(suspect, custody, None, meter).await;
                        drop(token);
                    }));
                    // Nothing is ever sent: it ends when the delivery was settled or lost.
                    let _ = is_over.await;
                }
                continue;
            }
            Err(error) => {
                tracing::debug!("could not look for deliveries of dead consumers: {error}");
                backoff.next()
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(())
}
