//! Claims deliveries and starts runners on the guest threads that take them.
//!
//! Where handlers are quick it claims a few more deliveries than can begin at once; see [`super::handler_pace`]. A
//! delivery that waited too long goes back to its lane, where another host can take it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::backoff::RetryBackoff;
use super::handler::{AttemptReservations, returned};
use super::ready_queue::{LaneRunner, MAX_WAIT, ReadyQueue, WaitingDelivery};
use super::settler::SettleItem;
use super::worker_state::WorkerState;
use crate::broker::{Delivery, Error, Lane};
use crate::plugin::GuestJob;
use crate::shutdown::TaskGroup;

/// How long the set of claimable lanes is reused while no plugin changes. Other hosts add lanes at any time.
const LANES_MAX_AGE: Duration = Duration::from_millis(100);

/// Runs until the worker stops.
pub(super) async fn run(shared: Arc<WorkerState>, tasks: TaskGroup) -> anyhow::Result<()> {
    let queue = shared.queue.clone();
    Dispatcher { queue, backoff: RetryBackoff::default(), is_stale: false, lanes_set_at: None, shared, tasks }
        .run()
        .await
}

struct Dispatcher {
    shared: Arc<WorkerState>,
    tasks: TaskGroup,
    queue: Arc<ReadyQueue>,
    backoff: RetryBackoff,
    /// Whether more could be claimed by now than the open claim asked for.
    is_stale: bool,
    lanes_set_at: Option<Instant>,
}

/// What a call came to.
enum CallResult {
    Claimed(Instant, Vec<Lane>, Result<Vec<Delivery>, Error>),
    Waited(Result<(), Error>),
    Paused,
}

/// A call to the broker that has not ended, or the pause before the next one.
struct OpenCall {
    answer: Pin<Box<dyn Future<Output = CallResult> + Send>>,
    kind: CallKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallKind {
    /// Must run to its end: this host cannot use deliveries of a dropped claim until their leases end.
    Claim,
    Wait,
    Pause,
}

impl Dispatcher {
    async fn run(mut self) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        let mut changes = shared.plugins.changes();
        let mut preparing = shared.plugins.preparing();
        let mut pauses = shared.pauses.changes();
        let mut open: Option<OpenCall> = None;
        let mut checks = tokio::time::interval(MAX_WAIT / 2);
        // It is polled only while something waits. After an idle day, the missed ticks of that day must not fire.
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !shared.stop.is_cancelled() {
            if open.is_none() {
                // Checked before each claim, so that no claim uses the lanes from before a change.
                let has_changed = changes.has_changed()? || preparing.has_changed()? || pauses.has_changed()?;
                if has_changed || self.lanes_set_at.is_none_or(|at| at.elapsed() >= LANES_MAX_AGE) {
                    self.queue.set_lanes(claimable_lanes(&shared));
                    self.lanes_set_at = Some(Instant::now());
                }
                open = self.claim();
            }
            self.start_runners();
            // The pause of a lane can end without a wake-up.
            let must_check = open.is_none() || !self.queue.is_empty();
            let answer = async {
                match &mut open {
                    Some(open) => open.answer.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            let may_claim_more = tokio::select! {
                answer = answer => {
                    open = self.take_answer(answer);
                    continue;
                }
                () = shared.stop.cancelled() => break,
                () = self.queue.wakeup() => true,
                changed = pauses.changed() => { changed?; self.lanes_set_at = None; true }
                changed = changes.changed() => { changed?; self.lanes_set_at = None; true }
                changed = preparing.changed() => {
                    changed?;
                    self.lanes_set_at = None;
                    *preparing.borrow_and_update() == 0
                }
                _ = checks.tick(), if must_check => { self.give_back(self.queue.take_late(Instant::now())); false }
            };
            // The open question may leave out lanes that can be claimed from by now.
            match &open {
                Some(OpenCall { kind: CallKind::Wait, .. }) if may_claim_more => open = None,
                Some(OpenCall { kind: CallKind::Claim, .. }) => self.is_stale |= may_claim_more,
                _ => {}
            }
        }
        self.is_stale = true;
        if let Some(open) = open.filter(|open| open.kind == CallKind::Claim) {
            self.take_answer(open.answer.await);
        }
        self.give_back(self.queue.take_all());
        Ok(())
    }

    /// Starts a claim if a lane can use a delivery.
    fn claim(&mut self) -> Option<OpenCall> {
        let claim = self.queue.next_claim()?;
        self.is_stale = false;
        let (shared, asked_at) = (self.shared.clone(), Instant::now());
        let answer = async move {
            let lanes = claim.lanes.iter().map(|demand| demand.lane.clone()).collect();
            CallResult::Claimed(asked_at, lanes, shared.work_queue.claim(claim).await)
        };
        Some(OpenCall { answer: Box::pin(answer), kind: CallKind::Claim })
    }

    /// Queues claimed deliveries and chooses the next question; `None` for another claim.
    fn take_answer(&mut self, answer: CallResult) -> Option<OpenCall> {
        match answer {
            CallResult::Claimed(_, lanes, Ok(deliveries)) if deliveries.is_empty() => {
                self.backoff.reset();
                if std::mem::take(&mut self.is_stale) {
                    return None;
                }
                let shared = self.shared.clone();
                let answer = async move { CallResult::Waited(shared.work_queue.wait_for_work(&lanes).await) };
                Some(OpenCall { answer: Box::pin(answer), kind: CallKind::Wait })
            }
            CallResult::Claimed(asked_at, _, Ok(deliveries)) => {
                self.backoff.reset();
                for delivery in deliveries {
                    let lease = self.shared.leased.keep(&delivery.receipt, asked_at);
                    self.queue.push(delivery, lease);
                }
                None
            }
            CallResult::Claimed(_, _, Err(error)) => Some(self.pause("claim", &error)),
            CallResult::Waited(Err(error)) => Some(self.pause("wait for", &error)),
            CallResult::Waited(Ok(())) | CallResult::Paused => None,
        }
    }

    fn pause(&mut self, action: &str, error: &Error) -> OpenCall {
        tracing::debug!("could not {action} events: {error}");
        let pause = self.backoff.next_pause();
        let answer = async move {
            tokio::time::sleep(pause).await;
            CallResult::Paused
        };
        OpenCall { answer: Box::pin(answer), kind: CallKind::Pause }
    }

    fn start_runners(&self) {
        for runner in self.queue.missing_runners() {
            self.shared.plugins.run_jobs(self.jobs(runner));
        }
    }

    /// Turns the deliveries of a lane into jobs, one at each call.
    fn jobs(&self, runner: LaneRunner) -> impl FnMut() -> Option<GuestJob> + Send + 'static {
        // The token is dropped last: the worker must not end before its shared state is released.
        let (shared, token) = (self.shared.clone(), self.tasks.token());
        let owned = (runner, shared, token);
        move || {
            let (runner, shared, token) = &owned;
            let (WaitingDelivery { delivery, guard, .. }, slot) = runner.next_delivery()?;
            let (shared, token) = (shared.clone(), token.clone());
            Some(GuestJob::new(|meter| async move {
                shared.handle_delivery(delivery, guard, Some(slot), meter).await;
                drop(token);
            }))
        }
    }

    /// Returns waiting deliveries to their lanes, as if they had never been claimed.
    fn give_back(&self, waiting: Vec<WaitingDelivery>) {
        for WaitingDelivery { delivery, guard, .. } in waiting {
            let lane = delivery.receipt.lane.clone();
            self.shared.settler.submit(SettleItem::new(
                returned(delivery, lane),
                guard,
                AttemptReservations::default(),
            ));
        }
    }
}

/// The lanes to claim from, each with its number of slots. They are those of the plugins of this host, and those in the
/// store that no other host serves. While plugins start, only loaded plugins have lanes here; see [`super::coverage`]. A paused lane is left out.
fn claimable_lanes(shared: &WorkerState) -> HashMap<Lane, usize> {
    let default = shared.options.concurrency;
    let mut lanes = HashMap::new();
    for plugin in shared.plugins.claimable() {
        lanes.extend(plugin.name().parse().ok().zip(Some(plugin.concurrency.unwrap_or(default))));
    }
    for lane in shared.work_queue.lanes().into_iter().chain([Lane::unrouted()]) {
        if !lanes.contains_key(&lane) && shared.coverage.may_claim(&lane) {
            lanes.insert(lane, default);
        }
    }
    // Until the pauses are known, every lane counts as paused.
    lanes.retain(|lane, _| !shared.pauses.is_paused(lane));
    lanes
}
