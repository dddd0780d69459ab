//! Takes over the deliveries of dead consumers, one at a time.
//!
//! Such a delivery may have crashed its host and may crash this one. So the next one is taken only after the last one was
//! settled, and a crash counts against the delivery that caused it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::RetryBackoff;
use super::ready_queue::DeliveryGuard;
use super::worker_state::WorkerState;
use crate::plugin::GuestJob;
use crate::shutdown::TaskGroup;

/// Runs until the worker stops.
pub(super) async fn run(shared: Arc<WorkerState>, tasks: TaskGroup) -> anyhow::Result<()> {
    let idle_pause = (shared.options.lease / 6).clamp(Duration::from_millis(50), Duration::from_secs(2));
    let mut backoff = RetryBackoff::default();
    while !shared.stop.is_cancelled() {
        let asked_at = Instant::now();
        let pause = match shared.work_queue.recover(1).await {
            Ok(suspects) if suspects.is_empty() => {
                backoff.reset();
                idle_pause.mul_f64(0.75 + fastrand::f64() / 2.0)
            }
            Ok(suspects) => {
                backoff.reset();
                for suspect in suspects {
                    shared.queue.note_size(&suspect);
                    tracing::info!(
                        event.id = %suspect.receipt.event_id, lane = %suspect.receipt.lane, deliveries = suspect.deliveries,
                        "delivery taken over from a consumer that is gone"
                    );
                    let hold = shared.held.hold(&suspect.receipt, asked_at);
                    let (guard, ended) = DeliveryGuard::for_suspect(hold);
                    let (worker, token) = (shared.clone(), tasks.token());
                    shared.plugins.spawn_job(GuestJob::new(|meter| async move {
                        worker.handle_delivery(suspect, guard, None, meter).await;
                        drop(token);
                    }));
                    // Nothing is ever sent. The guard drops the other end when the delivery was settled or lost.
                    let _ = ended.await;
                }
                continue;
            }
            Err(error) => {
                tracing::debug!("could not look for deliveries of dead consumers: {error}");
                backoff.next_pause()
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(())
}
