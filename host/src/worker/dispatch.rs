//! Claims deliveries and starts an attempt for each as soon as its lane has a free slot.
//!
//! A little more is claimed than can begin at once, where handlers are quick; see [`super::ahead`]. What has waited for
//! longer than it should goes back to its lane, so that another host can take it.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::broker::{Delivery, Error, Lane};
use crate::shutdown::Tasks;

use super::Shared;
use super::ahead::Paces;
use super::attempt::returned;
use super::leases::Hold;
use super::settle::Backoff;
use super::slots::{Slots, Want};

/// The most deliveries that are handled but not settled yet; reached only while the store is slow or away.
const MAX_UNSETTLED: usize = 1_024;
/// How long a delivery waits for a slot before it goes back. Far longer than was expected of it.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// Runs until the worker stops.
pub(super) async fn run(shared: Arc<Shared>, tasks: Tasks) -> anyhow::Result<()> {
    let book = Book { slots: Slots::new(shared.options.host_concurrency), paces: Paces::default() };
    let dispatcher = Dispatcher {
        book: Arc::new(Mutex::new(book)),
        unsettled: Arc::new(tokio::sync::Semaphore::new(MAX_UNSETTLED)),
        waiting: HashMap::new(),
        backoff: Backoff::default(),
        shared,
        tasks,
    };
    dispatcher.run().await
}

struct Dispatcher {
    shared: Arc<Shared>,
    tasks: Tasks,
    book: Arc<Mutex<Book>>,
    unsettled: Arc<tokio::sync::Semaphore>,
    /// What was claimed ahead, by lane, oldest first.
    waiting: HashMap<Lane, VecDeque<Waiting>>,
    backoff: Backoff,
}

/// What is counted.
struct Book {
    slots: Slots,
    paces: Paces,
}

/// A delivery that is held and has not begun.
struct Waiting {
    delivery: Delivery,
    hold: Hold,
    since: Instant,
}

/// A taken slot; free again when this is dropped.
struct Slot {
    book: Arc<Mutex<Book>>,
    lane: Lane,
    since: Instant,
}

/// What the broker is asked, or what is waited for instead.
enum Asked {
    Claimed(Instant, Vec<Lane>, Result<Vec<Delivery>, Error>),
    Waited(Result<(), Error>),
    Paused,
}

struct Asking {
    answer: Pin<Box<dyn Future<Output = Asked> + Send>>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Must not be dropped, or what it brings is lost to this host for a while.
    Claim,
    Wait,
    Pause,
}

impl Dispatcher {
    async fn run(mut self) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        let mut changes = shared.plugins.changes();
        let mut asking: Option<Asking> = None;
        let mut looks = tokio::time::interval(MAX_WAIT / 2);
        while !shared.stop.is_cancelled() {
            let lanes = shared.lanes();
            self.begin_waiting(&lanes);
            if asking.is_none() {
                asking = self.claim(lanes);
            }
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
                () = shared.freed.notified() => true,
                changed = changes.changed() => { changed?; true }
                _ = looks.tick(), if !self.waiting.is_empty() => { self.give_back_late(); false }
            };
            // More lanes may have free slots now than those that are waited for.
            if stale && asking.as_ref().is_some_and(|asking| asking.kind == Kind::Wait) {
                asking = None;
            }
        }
        if let Some(asking) = asking.filter(|asking| asking.kind == Kind::Claim) {
            self.heard(asking.answer.await);
        }
        self.give_back(|_| true);
        Ok(())
    }

    /// Begins to claim, if anything can be used.
    fn claim(&self, lanes: Vec<(Lane, usize)>) -> Option<Asking> {
        let room = self.unsettled.available_permits();
        let mut claim = {
            let Book { slots, paces } = &mut *self.book();
            let want = |(lane, limit): (Lane, usize)| Want { ahead: paces.ahead(&lane, limit), lane, limit };
            let wants: Vec<Want> = lanes.into_iter().map(want).collect();
            slots.claim(&wants)?
        };
        if room == 0 {
            return None;
        }
        claim.max = claim.max.min(room);
        let (shared, asked_at) = (self.shared.clone(), Instant::now());
        let answer = async move {
            let lanes = claim.lanes.iter().map(|want| want.lane.clone()).collect();
            Asked::Claimed(asked_at, lanes, shared.broker.claim(claim).await)
        };
        Some(Asking { answer: Box::pin(answer), kind: Kind::Claim })
    }

    /// Takes what was brought, and says what is to be asked next.
    fn heard(&mut self, asked: Asked) -> Option<Asking> {
        match asked {
            Asked::Claimed(_, lanes, Ok(deliveries)) if deliveries.is_empty() => {
                self.backoff.reset();
                let shared = self.shared.clone();
                let answer = async move { Asked::Waited(shared.broker.wait(&lanes).await) };
                Some(Asking { answer: Box::pin(answer), kind: Kind::Wait })
            }
            Asked::Claimed(asked_at, _, Ok(deliveries)) => {
                self.backoff.reset();
                for delivery in deliveries {
                    let hold = self.shared.held.hold(&delivery.receipt, asked_at);
                    let lane = delivery.receipt.lane.clone();
                    self.book().slots.wait(&lane);
                    self.waiting.entry(lane).or_default().push_back(Waiting { delivery, hold, since: Instant::now() });
                }
                None
            }
            Asked::Claimed(_, _, Err(error)) => Some(self.pause("claim", &error)),
            Asked::Waited(Err(error)) => Some(self.pause("wait for", &error)),
            Asked::Waited(Ok(())) | Asked::Paused => None,
        }
    }

    fn pause(&mut self, what: &str, error: &Error) -> Asking {
        tracing::debug!("could not {what} events: {error}");
        let pause = self.backoff.next();
        let answer = async move {
            tokio::time::sleep(pause).await;
            Asked::Paused
        };
        Asking { answer: Box::pin(answer), kind: Kind::Pause }
    }

    /// Begins what waits and has a slot.
    fn begin_waiting(&mut self, lanes: &[(Lane, usize)]) {
        let mut waiting = std::mem::take(&mut self.waiting);
        for (lane, queue) in &mut waiting {
            let limit = lanes.iter().find(|(known, _)| known == lane).map_or(1, |(_, limit)| *limit);
            while self.book().slots.may_begin(lane, limit)
                && let Some(Waiting { delivery, hold, .. }) = queue.pop_front()
            {
                self.book().slots.wait_no_more(lane);
                // Lost while it waited: somebody else has it.
                if !hold.lost().is_cancelled() {
                    self.begin(delivery, hold);
                }
            }
        }
        waiting.retain(|_, queue| !queue.is_empty());
        self.waiting = waiting;
    }

    fn begin(&self, delivery: Delivery, hold: Hold) {
        let slot = Slot::take(&self.book, &delivery.receipt.lane);
        let permit = self.unsettled.clone().try_acquire_owned();
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            shared.work(delivery, hold, || drop(slot)).await;
            drop(permit);
            shared.freed.notify_one();
        });
    }

    /// Hands back what has waited for too long: its handlers turned out to be slow.
    fn give_back_late(&mut self) {
        let now = Instant::now();
        let late: Vec<Lane> = self
            .waiting
            .iter()
            .filter(|(_, queue)| {
                queue.front().is_some_and(|first| now.saturating_duration_since(first.since) >= MAX_WAIT)
            })
            .map(|(lane, _)| lane.clone())
            .collect();
        for lane in &late {
            self.book().paces.note(lane, MAX_WAIT);
        }
        self.give_back(|lane| late.contains(lane));
    }

    /// Hands back what waits in some lanes, as if it had never been claimed.
    fn give_back(&mut self, of: impl Fn(&Lane) -> bool) {
        let (back, kept) = std::mem::take(&mut self.waiting).into_iter().partition(|(lane, _)| of(lane));
        self.waiting = kept;
        let back: HashMap<Lane, VecDeque<Waiting>> = back;
        for (lane, queue) in back {
            for Waiting { delivery, hold, .. } in queue {
                self.book().slots.wait_no_more(&lane);
                let (shared, lane) = (self.shared.clone(), lane.clone());
                self.tasks.spawn(async move {
                    tokio::select! {
                        _ = shared.settle(returned(delivery, lane)) => {}
                        () = hold.lost().cancelled() => {}
                    }
                });
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn take(book: &Arc<Mutex<Book>>, lane: &Lane) -> Self {
        book.lock().unwrap_or_else(PoisonError::into_inner).slots.take(lane);
        Self { book: book.clone(), lane: lane.clone(), since: Instant::now() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.slots.release(&self.lane);
        book.paces.note(&self.lane, self.since.elapsed());
    }
}
