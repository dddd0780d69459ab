//! Claims deliveries as slots come free and starts an attempt for each.
//!
//! Never more is claimed than can begin at once: a delivery that waited inside the host would age towards the end of
//! its lease and could not be taken by a host that is idle.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::broker::{Delivery, Lane};
use crate::shutdown::Tasks;

use super::Shared;
use super::settle::Backoff;
use super::slots::Slots;

/// The most deliveries that are handled but not settled yet; reached only while the store is slow or away.
const MAX_UNSETTLED: usize = 1_024;

/// Runs until the worker stops.
pub(super) async fn run(shared: Arc<Shared>, tasks: Tasks) -> anyhow::Result<()> {
    let dispatcher = Dispatcher {
        slots: Arc::new(Mutex::new(Slots::new(shared.options.host_concurrency))),
        unsettled: Arc::new(tokio::sync::Semaphore::new(MAX_UNSETTLED)),
        shared,
        tasks,
    };
    dispatcher.run().await
}

struct Dispatcher {
    shared: Arc<Shared>,
    tasks: Tasks,
    slots: Arc<Mutex<Slots>>,
    unsettled: Arc<tokio::sync::Semaphore>,
}

/// A taken slot; free again when this is dropped.
struct Slot {
    slots: Arc<Mutex<Slots>>,
    lane: Lane,
}

impl Dispatcher {
    async fn run(self) -> anyhow::Result<()> {
        let shared = &self.shared;
        let mut changes = shared.plugins.changes();
        let mut backoff = Backoff::default();
        while !shared.stop.is_cancelled() {
            let lanes = shared.lanes();
            let claim = self.slots.lock().unwrap_or_else(PoisonError::into_inner).claim(&lanes);
            let room = self.unsettled.available_permits();
            let Some(mut claim) = claim.filter(|_| room > 0) else {
                tokio::select! {
                    () = shared.stop.cancelled() => {}
                    () = shared.freed.notified() => {}
                    changed = changes.changed() => changed?,
                }
                continue;
            };
            claim.max = claim.max.min(room);
            let free_lanes: Vec<Lane> = claim.lanes.iter().map(|want| want.lane.clone()).collect();
            let claimed = Instant::now();
            match shared.broker.claim(claim).await {
                Ok(deliveries) if deliveries.is_empty() => {
                    backoff.reset();
                    let waited = tokio::select! {
                        () = shared.stop.cancelled() => Ok(()),
                        () = shared.freed.notified() => Ok(()),
                        changed = changes.changed() => { changed?; Ok(()) }
                        waited = shared.broker.wait(&free_lanes) => waited,
                    };
                    if let Err(error) = waited {
                        tracing::debug!("could not wait for events: {error}");
                        self.pause(&mut backoff).await;
                    }
                }
                Ok(deliveries) => {
                    backoff.reset();
                    for delivery in deliveries {
                        self.begin(delivery, claimed);
                    }
                }
                Err(error) => {
                    tracing::debug!("could not claim events: {error}");
                    self.pause(&mut backoff).await;
                }
            }
        }
        Ok(())
    }

    fn begin(&self, delivery: Delivery, claimed: Instant) {
        let slot = Slot::take(&self.slots, &delivery.receipt.lane);
        let permit = self.unsettled.clone().try_acquire_owned();
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            shared.work(delivery, claimed, || drop(slot)).await;
            drop(permit);
            shared.freed.notify_one();
        });
    }

    async fn pause(&self, backoff: &mut Backoff) {
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

impl Slot {
    fn take(slots: &Arc<Mutex<Slots>>, lane: &Lane) -> Self {
        slots.lock().unwrap_or_else(PoisonError::into_inner).take(lane);
        Self { slots: slots.clone(), lane: lane.clone() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).release(&self.lane);
    }
}
