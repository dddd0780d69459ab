//! What the loops of the worker share, and the way of one delivery from its slot to its settle.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::coverage::HostCoverage;
use super::handler::{AttemptReservations, DeliveryHandler, returned};
use super::leases::LeasedDeliveries;
use super::options::WorkerOptions;
use super::ready_queue::{DeliveryGuard, ReadyQueue, SlotGuard};
use super::settler::{SettleConclusion, SettleItem, SettleQueue};
use crate::broker::{Delivery, EventLog, PauseBoard, WorkQueue};
use crate::event::Settlement;
use crate::plugin::{CpuMeter, PluginRegistry};

/// What the loops of the worker share.
pub(super) struct WorkerState {
    pub(super) event_log: Arc<dyn EventLog>,
    pub(super) work_queue: Arc<dyn WorkQueue>,
    pub(super) plugins: Arc<PluginRegistry>,
    pub(super) handler: DeliveryHandler,
    pub(super) settler: SettleQueue,
    pub(super) coverage: Arc<HostCoverage>,
    /// Knows which lanes must not be handled.
    pub(super) pauses: Arc<PauseBoard>,
    /// Notified when an event failed without a handler and a handler may exist by now.
    pub(super) handler_appeared: Arc<Notify>,
    pub(super) leased: LeasedDeliveries,
    pub(super) queue: Arc<ReadyQueue>,
    pub(super) options: WorkerOptions,
    /// Cancelled when the worker must claim nothing more.
    pub(super) stop: CancellationToken,
    /// Cancelled when running attempts must end now.
    pub(super) give_up: CancellationToken,
}

impl WorkerState {
    /// Handles a delivery on a guest thread and submits its settle. Ends early when the lease is lost, because the broker
    /// would ignore the outcome.
    pub(super) async fn handle_delivery(
        self: Arc<Self>,
        delivery: Delivery,
        mut guard: DeliveryGuard,
        slot: Option<SlotGuard>,
        meter: Arc<CpuMeter>,
    ) {
        let lane = delivery.receipt.lane.clone();
        if delivery.deliveries > 1 {
            // A suspect stays in its lane, so it waits until its plugin is loaded.
            tokio::select! {
                () = self.plugins.routed(&delivery.record.event.event_type) => {}
                () = guard.lease.lost().cancelled() => return,
                () = self.stop.cancelled() => {
                    let reservations = AttemptReservations::default();
                    return self.settler.submit(SettleItem::new(returned(delivery, lane), guard, reservations));
                }
            }
        }
        loop {
            let lost = guard.lease.lost().clone();
            let (settle, reservations) = tokio::select! {
                biased;
                handled = self.handler.handle(delivery.clone(), meter.clone()) => handled,
                () = lost.cancelled() => return,
                () = self.give_up.cancelled() => (returned(delivery.clone(), lane.clone()), AttemptReservations::default()),
            };
            if settle.settlement == Settlement::Returned && settle.lane == lane {
                self.queue.pause_lane(&lane);
            }
            if reservations.adds_much_history() && self.handler.history.must_wait(&lane) {
                self.queue.throttle_lane(&lane);
            }
            let has_state = settle.state.is_some();
            let item = SettleItem::new(settle, guard, reservations);
            if !has_state {
                return self.settler.submit(item);
            }
            // An attempt that read state may conflict with another one. It then runs again and keeps its slot.
            let conclusion = tokio::select! {
                conclusion = self.settler.settle(item) => conclusion,
                () = lost.cancelled() => return,
            };
            let SettleConclusion::Conflict(kept_guard) = conclusion else { return drop(slot) };
            tracing::debug!(event.id = %delivery.receipt.event_id, "its state changed meanwhile: handled again");
            guard = kept_guard;
        }
    }
}
