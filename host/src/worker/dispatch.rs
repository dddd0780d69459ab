//! Claims deliveries and sees to it that somebody takes them: runners on the threads of guests.
//!
//! A little more is claimed than can begin at once, where handlers are quick; see [`super::ahead`]. What has waited for
//! longer than it should goes back to its lane, so that another host can take it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::broker::{Delivery, Error, Lane};
use crate::plugin::GuestJob;
use crate::shutdown::TaskGroup;

use super::WorkerState;
use super::attempt::returned;
use super::queue::{LaneRunner, MAX_WAIT, ReadyQueue, WaitingDelivery};
use super::settle::{SettleBackoff, SettleItem};

/// For how long the lanes are known to claim from, unless plugins change. Others come with the lanes of other hosts.
const LANES_KNOWN_FOR: Duration = Duration::from_millis(100);

/// Runs until the worker stops.
pub(super) async fn run(shared: Arc<WorkerState>, tasks: TaskGroup) -> anyhow::Result<()> {
    let queue = shared.queue.clone();
    Dispatcher { queue, backoff: SettleBackoff::default(), is_stale: false, lanes_known_at: None, shared, tasks }
        .run()
        .await
}

struct Dispatcher {
    shared: Arc<WorkerState>,
    tasks: TaskGroup,
    queue: Arc<ReadyQueue>,
    backoff: SettleBackoff,
    /// More could have been asked for since the claim that is under way was made.
    is_stale: bool,
    lanes_known_at: Option<Instant>,
}

/// What the broker is asked, or what is waited for instead.
enum BrokerQuestion {
    Claimed(Instant, Vec<Lane>, Result<Vec<Delivery>, Error>),
    Waited(Result<(), Error>),
    Paused,
}

struct OpenQuestion {
    answer: Pin<Box<dyn Future<Output = BrokerQuestion> + Send>>,
    kind: QuestionKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QuestionKind {
    /// Must not be dropped, or what it brings is lost to this host for a while.
    Claim,
    Wait,
    Pause,
}

impl Dispatcher {
    async fn run(mut self) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        let mut changes = shared.plugins.changes();
        let mut preparing = shared.plugins.preparing();
        let mut asking: Option<OpenQuestion> = None;
        let mut looks = tokio::time::interval(MAX_WAIT / 2);
        // It is asked only while something waits: after an idle day no day's worth of looks is due.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !shared.stop.is_cancelled() {
            if asking.is_none() {
                // Looked at without waiting for it: a claim must not be for lanes that were before a change.
                let has_changed = changes.has_changed()? || preparing.has_changed()?;
                if has_changed || self.lanes_known_at.is_none_or(|at| at.elapsed() >= LANES_KNOWN_FOR) {
                    self.queue.set_lanes(shared.lanes());
                    self.lanes_known_at = Some(Instant::now());
                }
                asking = self.claim();
            }
            self.start_runners();
            // A lane that was left to others may be asked again by and by, though nothing stirs.
            let looks_again = asking.is_none() || !self.queue.is_empty();
            let answer = async {
                match &mut asking {
                    Some(asking) => asking.answer.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            let stale = tokio::select! {
                asked = answer => {
                    asking = self.heard(asked);
                    continue;
                }
                () = shared.stop.cancelled() => break,
                () = self.queue.stirred() => true,
                changed = changes.changed() => { changed?; self.lanes_known_at = None; true }
                changed = preparing.changed() => {
                    changed?;
                    self.lanes_known_at = None;
                    *preparing.borrow_and_update() == 0
                }
                _ = looks.tick(), if looks_again => { self.give_back(self.queue.take_late(Instant::now())); false }
            };
            // There may be something to claim now in other lanes than those that are asked or waited for.
            match &asking {
                Some(OpenQuestion { kind: QuestionKind::Wait, .. }) if stale => asking = None,
                Some(OpenQuestion { kind: QuestionKind::Claim, .. }) => self.is_stale |= stale,
                _ => {}
            }
        }
        self.is_stale = true;
        if let Some(asking) = asking.filter(|asking| asking.kind == QuestionKind::Claim) {
            self.heard(asking.answer.await);
        }
        self.give_back(self.queue.take_all());
        Ok(())
    }

    /// Begins to claim, if anything can be used.
    fn claim(&mut self) -> Option<OpenQuestion> {
        let claim = self.queue.claim()?;
        self.is_stale = false;
        let (shared, asked_at) = (self.shared.clone(), Instant::now());
        let answer = async move {
            let lanes = claim.lanes.iter().map(|want| want.lane.clone()).collect();
            BrokerQuestion::Claimed(asked_at, lanes, shared.work_queue.claim(claim).await)
        };
        Some(OpenQuestion { answer: Box::pin(answer), kind: QuestionKind::Claim })
    }

    /// Takes what was brought, and says what is to be asked next.
    fn heard(&mut self, asked: BrokerQuestion) -> Option<OpenQuestion> {
        match asked {
            BrokerQuestion::Claimed(_, lanes, Ok(deliveries)) if deliveries.is_empty() => {
                self.backoff.reset();
                if std::mem::take(&mut self.is_stale) {
                    return None;
                }
                let shared = self.shared.clone();
                let answer = async move { BrokerQuestion::Waited(shared.work_queue.wait_for_work(&lanes).await) };
                Some(OpenQuestion { answer: Box::pin(answer), kind: QuestionKind::Wait })
            }
            BrokerQuestion::Claimed(asked_at, _, Ok(deliveries)) => {
                self.backoff.reset();
                for delivery in deliveries {
                    let hold = self.shared.held.hold(&delivery.receipt, asked_at);
                    self.queue.push(delivery, hold, self.tasks.token());
                }
                None
            }
            BrokerQuestion::Claimed(_, _, Err(error)) => Some(self.pause("claim", &error)),
            BrokerQuestion::Waited(Err(error)) => Some(self.pause("wait for", &error)),
            BrokerQuestion::Waited(Ok(())) | BrokerQuestion::Paused => None,
        }
    }

    fn pause(&mut self, what: &str, error: &Error) -> OpenQuestion {
        tracing::debug!("could not {what} events: {error}");
        let pause = self.backoff.next();
        let answer = async move {
            tokio::time::sleep(pause).await;
            BrokerQuestion::Paused
        };
        OpenQuestion { answer: Box::pin(answer), kind: QuestionKind::Pause }
    }

    fn start_runners(&self) {
        for runner in self.queue.missing_runners() {
            self.shared.plugins.work_off(self.jobs(runner));
        }
    }

    /// The deliveries of a lane, each as a job.
    fn jobs(&self, runner: LaneRunner) -> impl FnMut() -> Option<GuestJob> + Send + 'static {
        // Dropped in this order: the worker has not ended before what it shares is let go.
        let (shared, token) = (self.shared.clone(), self.tasks.token());
        let owned = (runner, shared, token);
        move || {
            let (runner, shared, token) = &owned;
            let (WaitingDelivery { delivery, custody, .. }, slot) = runner.next()?;
            let (shared, token) = (shared.clone(), token.clone());
            Some(GuestJob::new(|meter| async move {
                shared.work(delivery, custody, Some(slot), meter).await;
                drop(token);
            }))
        }
    }

    /// Hands back what waits, as if it had never been claimed.
    fn give_back(&self, waiting: Vec<WaitingDelivery>) {
        for WaitingDelivery { delivery, custody, .. } in waiting {
            let lane = delivery.receipt.lane.clone();
            self.shared.settler.submit(SettleItem::new(returned(delivery, lane), custody));
        }
    }
}
