//! Whose turn it is on the slow tier: plugins take turns, however many attempts each of them has there.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// As many turns as there are threads, each handed on to the plugin that has waited for the most turns of others.
#[derive(Debug)]
pub(in crate::plugin) struct GuestTurns(Mutex<TurnQueue>);

#[derive(Debug)]
struct TurnQueue {
    free: usize,
    /// The attempts that wait, by plugin.
    waiting: HashMap<Arc<str>, VecDeque<oneshot::Sender<GuestTurn>>>,
    /// The plugins of which an attempt waits. The first has the next turn.
    order: VecDeque<Arc<str>>,
}

/// The right to run, until this is dropped.
#[derive(Debug)]
pub(in crate::plugin) struct GuestTurn(Option<Arc<GuestTurns>>);

impl GuestTurns {
    /// So many turns at once.
    pub(in crate::plugin) fn new(threads: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(TurnQueue { free: threads, waiting: HashMap::new(), order: VecDeque::new() })))
    }

    /// Waits for a turn of this plugin. Dropping the future gives the place in the queue up.
    pub(in crate::plugin) async fn take(self: &Arc<Self>, plugin: &Arc<str>) -> GuestTurn {
        // The other end is in the book, which lives as long as `self`.
        self.line_up(plugin).await.unwrap_or(GuestTurn(None))
    }

    /// Ends a turn and waits for the next one. Its place in the queue is taken before anybody else can have the turn.
    pub(in crate::plugin) async fn pass(self: &Arc<Self>, turn: GuestTurn, plugin: &Arc<str>) -> GuestTurn {
        let next = self.line_up(plugin);
        drop(turn);
        // Whoever is not in the queue yet can come to it, even if nobody else is there.
        yield_once().await;
        next.await.unwrap_or(GuestTurn(None))
    }

    fn line_up(self: &Arc<Self>, plugin: &Arc<str>) -> oneshot::Receiver<GuestTurn> {
        let (hand_over, handed_over) = oneshot::channel();
        let mut book = self.book();
        if book.free > 0 {
            book.free -= 1;
            // The other end is there.
            let _ = hand_over.send(GuestTurn(Some(self.clone())));
        } else {
            book.wait(plugin, hand_over);
        }
        handed_over
    }

    /// A turn has ended. Whoever does not wait any more is passed over.
    fn hand_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut book = self.book();
                let next = book.next();
                if next.is_none() {
                    book.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(GuestTurn(Some(self.clone()))) {
                Ok(()) => return,
                Err(mut unwanted) => unwanted.0 = None,
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, TurnQueue> {
        self.0.lock()
    }
}

impl TurnQueue {
    fn wait(&mut self, plugin: &Arc<str>, hand_over: oneshot::Sender<GuestTurn>) {
        let waiting = self.waiting.entry(plugin.clone()).or_default();
        if waiting.is_empty() {
            self.order.push_back(plugin.clone());
        }
        waiting.push_back(hand_over);
    }

    fn next(&mut self) -> Option<oneshot::Sender<GuestTurn>> {
        let plugin = self.order.pop_front()?;
        let waiting = self.waiting.get_mut(&plugin)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&plugin);
        } else {
            self.order.push_back(plugin);
        }
        next
    }
}

impl Drop for GuestTurn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.hand_on();
        }
    }
}

/// Yields the thread once, as a guest does at a tick, and can go on at once.
pub(in crate::plugin) async fn yield_once() {
    let mut is_first = true;
    poll_fn(|context| {
        if !std::mem::take(&mut is_first) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn plugin(name: &str) -> Arc<str> {
        name.into()
    }

    /// Who has the turns that follow each other, of those that wait from the start.
    async fn order(waiting: &[&'static str]) -> Vec<&'static str> {
        let turns = GuestTurns::new(1);
        let first = turns.take(&plugin("first")).await;
        let mut takes: Vec<_> = waiting
            .iter()
            .map(|name| {
                let (turns, key) = (turns.clone(), plugin(name));
                (*name, Box::pin(async move { turns.take(&key).await }))
            })
            .collect();
        assert!(takes.iter_mut().all(|(_, take)| take.now_or_never().is_none()));
        drop(first);
        let mut order = Vec::new();
        while !takes.is_empty() {
            let found = takes.iter_mut().position(|(_, take)| take.as_mut().now_or_never().is_some());
            order.push(takes.remove(found.unwrap()).0);
        }
        order
    }

    #[tokio::test]
    async fn plugins_take_turns_whatever_the_number_of_their_attempts() {
        assert_eq!(order(&["loops", "loops", "loops", "other"]).await, ["loops", "other", "loops", "loops"]);
        assert_eq!(order(&["a", "a", "b", "c", "b"]).await, ["a", "b", "c", "a", "b"]);
    }

    #[tokio::test]
    async fn a_turn_that_is_passed_goes_to_the_others_first() {
        let turns = GuestTurns::new(1);
        let (a, b) = (plugin("a"), plugin("b"));
        let first = turns.take(&a).await;
        let mut other = Box::pin(turns.take(&b));
        assert!(other.as_mut().now_or_never().is_none());
        let mut next = Box::pin(turns.pass(first, &a));
        assert!(next.as_mut().now_or_never().is_none());
        let other = other.as_mut().now_or_never();
        assert!(other.is_some() && next.as_mut().now_or_never().is_none());
        drop(other);
        let alone = next.as_mut().now_or_never().unwrap();
        turns.pass(alone, &a).await;
    }

    #[tokio::test]
    async fn whoever_does_not_wait_any_more_is_passed_over() {
        let turns = GuestTurns::new(1);
        let first = turns.take(&plugin("a")).await;
        let (b, c) = (plugin("b"), plugin("c"));
        let mut gone = Box::pin(turns.take(&b));
        let mut granted = Box::pin(turns.take(&b));
        let mut last = Box::pin(turns.take(&c));
        assert!(gone.as_mut().now_or_never().is_none());
        assert!(granted.as_mut().now_or_never().is_none());
        assert!(last.as_mut().now_or_never().is_none());
        drop(gone);
        drop(first);
        // The turn is its own by now, though it has not looked.
        drop(granted);
        assert!(last.as_mut().now_or_never().is_some());
        assert!(turns.take(&b).now_or_never().is_some(), "nobody has a turn any more");
    }
}
