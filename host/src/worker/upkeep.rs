//! Moves what is due to its lane, limits the lanes, and keeps house.
//!
//! Every host does all of it: each step is atomic in the store, so two at a time do no harm, and none is needed in particular.

use std::sync::Arc;
use std::time::Duration;

use super::WorkerState;
use super::reach::PeerWatch;
use super::settle::SettleBackoff;

/// The longest pause between two looks for what is due: half of what G5 allows.
const MAX_PROMOTE_PAUSE_MS: u64 = 500;
/// The longest pause between two rounds of house-keeping; shorter where leases are, since a round shows that this host
/// is alive.
const MAX_MAINTAIN_PAUSE: Duration = Duration::from_secs(1);

/// The pause where there is more to do, so that what cannot be done is not asked for without end.
const MORE_PAUSE: Duration = Duration::from_millis(10);

/// Promotes until the worker stops.
pub(super) async fn promote(shared: Arc<WorkerState>) -> anyhow::Result<()> {
    let mut backoff = SettleBackoff::default();
    while !shared.stop.is_cancelled() {
        let pause = match shared.work_queue.promote().await {
            Ok(promoted) if promoted.more => continue,
            Ok(promoted) => {
                backoff.reset();
                let until_due_ms = promoted.next_due_in_ms.unwrap_or(MAX_PROMOTE_PAUSE_MS).min(MAX_PROMOTE_PAUSE_MS);
                // Spread, so that several hosts do not look at the same moment.
                Duration::from_millis(until_due_ms.max(5) + fastrand::u64(0..=20))
            }
            Err(error) => {
                tracing::debug!("could not promote what is due: {error}");
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

/// Puts the limits of the plugins in force, at once whenever the plugins change, until the worker stops.
pub(super) async fn limit(shared: Arc<WorkerState>) -> anyhow::Result<()> {
    let mut changes = shared.plugins.changes();
    while !shared.stop.is_cancelled() {
        changes.borrow_and_update();
        let limits = shared.lane_limits();
        shared.work_queue.limit_lanes(limits.clone());
        shared.handler.crowd.limit_lanes(limits);
        tokio::select! {
            () = shared.stop.cancelled() => {}
            changed = changes.changed() => changed?,
        }
    }
    Ok(())
}

/// Keeps house until the worker stops.
pub(super) async fn maintain(shared: Arc<WorkerState>) -> anyhow::Result<()> {
    let pause = MAX_MAINTAIN_PAUSE.min(shared.options.lease / 4);
    let mut watch = PeerWatch::default();
    while !shared.stop.is_cancelled() {
        match shared.event_log.stats().await {
            Ok(stats) => shared.handler.crowd.note(&stats.depth),
            Err(error) => tracing::debug!("could not ask how much waits: {error}"),
        }
        let pause = match shared.work_queue.maintain().await {
            Ok(true) => MORE_PAUSE,
            Ok(false) => pause,
            Err(error) => {
                tracing::debug!("could not keep house: {error}");
                pause
            }
        };
        watch.look(&shared.reach);
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(())
}
