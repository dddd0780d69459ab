//! Promotes due events, takes over the deliveries of dead consumers, applies the limits of lanes, and maintains the store.
//!
//! Every host runs these loops. Each step is atomic in the store, so hosts do not disturb each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::RetryBackoff;
use super::coverage::PeerWatch;
use super::deferrals::StuckLane;
use super::handler::DeliveryHandler;
use super::history_limit::{HistoryLimit, ThrottledLane};
use super::ready_queue::DeliveryGuard;
use super::shortened::KeptPlace;
use super::worker_state::WorkerState;
use crate::broker::Lane;
use crate::plugin::{GuestJob, Plugin, PluginRegistry};
use crate::shutdown::TaskGroup;

/// The longest pause between two promotions: half of the delay that G5 of the contract allows.
const MAX_PROMOTE_PAUSE_MS: u64 = 500;
/// The longest pause between two rounds of maintenance. Short leases shorten it, because a round shows that this host is
/// alive.
const MAX_MAINTAIN_PAUSE: Duration = Duration::from_secs(1);
/// The pause when maintenance has more to do. It keeps work that makes no progress from becoming a busy loop.
const MORE_PAUSE: Duration = Duration::from_millis(10);
/// The pause while lanes are throttled, until the history is trimmed.
const THROTTLED_PAUSE: Duration = Duration::from_millis(100);

/// Promotes due events until the worker stops.
pub(super) async fn promote(shared: Arc<WorkerState>) -> anyhow::Result<()> {
    let mut backoff = RetryBackoff::default();
    while !shared.stop.is_cancelled() {
        let pause = match shared.work_queue.promote().await {
            Ok(promoted) if promoted.more => continue,
            Ok(promoted) => {
                backoff.reset();
                let until_due_ms = promoted.next_due_in_ms.unwrap_or(MAX_PROMOTE_PAUSE_MS).min(MAX_PROMOTE_PAUSE_MS);
                // A random part keeps several hosts from asking at the same moment.
                Duration::from_millis(until_due_ms.max(5) + fastrand::u64(0..=20))
            }
            Err(error) => {
                tracing::debug!("could not promote what is due: {error}");
                backoff.next_pause()
            }
        };
        shared.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    Ok(())
}

/// Takes over the deliveries of dead consumers, one at a time, until the worker stops.
///
/// Such a delivery may have crashed its host and may crash this one. So the next one is taken only after the last one was
/// settled, and a crash counts against the delivery that caused it.
pub(super) async fn recover(shared: Arc<WorkerState>, tasks: TaskGroup) -> anyhow::Result<()> {
    let idle_pause = (shared.options.lease / 6).clamp(Duration::from_millis(50), Duration::from_secs(2));
    let mut backoff = RetryBackoff::default();
    let mut pauses = shared.pauses.changes();
    // Before that, no delivery could be handled.
    let known = shared.stop.run_until_cancelled(pauses.wait_for(Option::is_some)).await;
    known.transpose()?;
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
                    let lease = shared.leased.keep(&suspect.receipt, asked_at);
                    let (guard, ended) = DeliveryGuard::for_suspect(lease);
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
        shared.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    Ok(())
}

/// Applies the plugins' limits to their lanes, at once whenever the plugins change, until the worker stops.
pub(super) async fn limit_lanes(shared: Arc<WorkerState>) -> anyhow::Result<()> {
    let mut changes = shared.plugins.changes();
    while !shared.stop.is_cancelled() {
        changes.borrow_and_update();
        let limits = lane_limits(&shared.plugins);
        shared.work_queue.limit_lanes(limits.clone());
        shared.handler.backlog.limit_lanes(limits);
        tokio::select! {
            () = shared.stop.cancelled() => {}
            changed = changes.changed() => changed?,
        }
    }
    Ok(())
}

/// How many events may wait in the lanes of plugins that set `max_waiting`.
fn lane_limits(plugins: &PluginRegistry) -> BTreeMap<Lane, u64> {
    let limit = |plugin: Arc<Plugin>| Some((plugin.name().parse().ok()?, plugin.max_waiting?));
    plugins.serving_plugins().into_iter().filter_map(limit).collect()
}

/// Maintains the store until the worker stops, once a second, and at once when much was added to the history. Before each
/// round it refreshes the backlog, and after it looks at other hosts.
pub(super) async fn maintain(shared: Arc<WorkerState>) -> anyhow::Result<()> {
    let pause = MAX_MAINTAIN_PAUSE.min(shared.options.lease / 4);
    let mut peers = PeerWatch::default();
    while !shared.stop.is_cancelled() {
        let DeliveryHandler { backlog, history, .. } = &shared.handler;
        backlog.begin_look();
        history.begin_look();
        match shared.event_log.stats().await {
            Ok(stats) => {
                backlog.update(&stats.depth);
                history.update(&stats.depth);
            }
            Err(error) => tracing::debug!("could not ask how much waits: {error}"),
        }
        let throttled = history.throttled_lanes(Instant::now());
        let quiet_pause = if throttled.is_empty() { pause } else { THROTTLED_PAUSE.min(pause) };
        shared.queue.set_throttled_lanes(throttled);
        warn_of_throttled_lanes(history);
        warn_of_stuck_lanes(&shared);
        warn_of_shortened_attempts(&shared);
        let pause = match shared.work_queue.maintain().await {
            Ok(true) => MORE_PAUSE,
            Ok(false) => quiet_pause,
            Err(error) => {
                tracing::debug!("could not maintain the store: {error}");
                pause
            }
        };
        peers.look(&shared.coverage);
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            () = history.grew.notified() => {}
        }
    }
    Ok(())
}

/// Says once in a while which plugins have not been able to end an event, because they publish more than fits.
fn warn_of_stuck_lanes(shared: &WorkerState) {
    let stuck = shared.handler.deferrals.lock().take_stuck(Instant::now());
    for StuckLane { lane, seconds, attempts, obstacle } in stuck {
        tracing::warn!(
            plugin.id = %lane, %lane, attempts,
            "every attempt of the plugin {lane} in the last {seconds} s was deferred: {obstacle}. If the backlog does not \
             shrink by itself, raise broker.max_waiting or plugins.{lane}.max_waiting, replace the plugin by a build that \
             publishes less, or run `eventstream plugin remove {lane}`: its events then fail as no-handler and can be discarded. \
             Otherwise they fail after about a day"
        );
    }
}

/// Says once in a while which plugins wait until the history has been trimmed.
fn warn_of_throttled_lanes(history: &HistoryLimit) {
    for ThrottledLane { lane, kept_bytes, history_bytes } in history.take_unwarned(Instant::now()) {
        tracing::warn!(
            plugin.id = %lane, %lane, kept_bytes, history_bytes,
            "the processed events of the plugin {lane} take {kept_bytes} bytes of the {history_bytes} that the history may \
             take, and more come than the store trims. So its attempts begin only as fast as room is made. Let it return \
             smaller results, or give the store more space"
        );
    }
}

/// Says once in a while of which plugins the store keeps attempts without their output, and why.
fn warn_of_shortened_attempts(shared: &WorkerState) {
    let due = shared.handler.shortened.lock().take_unwarned(Instant::now());
    for (lane, place, attempts) in due {
        match place {
            KeptPlace::Lane => tracing::warn!(
                plugin.id = %lane, %lane, attempts,
                "the waiting and failed events of the plugin {lane} take more than half of their bytes, so its attempts are \
                 kept without log, standard error and backtrace. Replace the plugin by a build that does not fail, discard \
                 failed events (eventstream failed discard --plugin {lane}), or raise broker.max_waiting_bytes if the store \
                 has the space"
            ),
            KeptPlace::History => tracing::warn!(
                plugin.id = %lane, %lane, attempts,
                "the plugin {lane} writes more than its history may grow by, so attempts of its processed events are kept \
                 without log and standard error. Let the plugin log less, or give the store more space"
            ),
        }
    }
}
