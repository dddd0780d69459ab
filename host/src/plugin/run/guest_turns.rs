//! Turns on the slow tier. Plugins take turns, however many attempts each of them has there.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// One turn for each thread. A turn that ends goes to the plugin that has waited longest.
#[derive(Debug)]
pub(in crate::plugin) struct GuestTurns(Mutex<TurnQueue>);

#[derive(Debug)]
struct TurnQueue {
    free: usize,
    /// The waiting attempts of each plugin.
    waiting: HashMap<Arc<str>, VecDeque<oneshot::Sender<GuestTurn>>>,
    /// The plugins with a waiting attempt. The first one gets the next turn.
    order: VecDeque<Arc<str>>,
}

/// The right to run. Dropping it hands the turn on.
#[derive(Debug)]
pub(in crate::plugin) struct GuestTurn(Option<Arc<GuestTurns>>);

impl GuestTurns {
    /// `threads` turns.
    pub(in crate::plugin) fn new(threads: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(TurnQueue { free: threads, waiting: HashMap::new(), order: VecDeque::new() })))
    }

    /// Waits for a turn of this plugin. Dropping the future gives up the place in the queue.
    pub(in crate::plugin) async fn take(self: &Arc<Self>, plugin: &Arc<str>) -> GuestTurn {
        // The sender is in the queue, which lives as long as `self`, so this does not fail.
        self.enqueue(plugin).await.unwrap_or(GuestTurn(None))
    }

    /// Ends a turn and waits for the next one. It enters the queue before another attempt can take the turn.
    pub(in crate::plugin) async fn pass(self: &Arc<Self>, turn: GuestTurn, plugin: &Arc<str>) -> GuestTurn {
        let next = self.enqueue(plugin);
        drop(turn);
        // Lets tasks of this thread run that have not entered the queue yet.
        yield_once().await;
        next.await.unwrap_or(GuestTurn(None))
    }

    fn enqueue(self: &Arc<Self>, plugin: &Arc<str>) -> oneshot::Receiver<GuestTurn> {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.0.lock();
        if queue.free > 0 {
            queue.free -= 1;
            // The receiver exists, so this does not fail.
            let _ = sender.send(GuestTurn(Some(self.clone())));
        } else {
            queue.push(plugin, sender);
        }
        receiver
    }

    /// Gives a turn that ended to the next attempt that still waits.
    fn hand_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut queue = self.0.lock();
                let next = queue.pop();
                if next.is_none() {
                    queue.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(GuestTurn(Some(self.clone()))) {
                Ok(()) => return,
                // The attempt no longer waits. Emptied, so that dropping the turn does not hand it on once more.
                Err(mut refused) => refused.0 = None,
            }
        }
    }
}

impl TurnQueue {
    fn push(&mut self, plugin: &Arc<str>, sender: oneshot::Sender<GuestTurn>) {
        let waiting = self.waiting.entry(plugin.clone()).or_default();
        if waiting.is_empty() {
            self.order.push_back(plugin.clone());
        }
        waiting.push_back(sender);
    }

    fn pop(&mut self) -> Option<oneshot::Sender<GuestTurn>> {
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

/// Yields the thread once, as a guest does at a tick. It can continue at once.
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

    /// The order in which attempts that wait from the start get their turns.
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
    async fn plugins_take_turns_however_many_attempts_they_have() {
        assert_eq!(order(&["loops", "loops", "loops", "other"]).await, ["loops", "other", "loops", "loops"]);
        assert_eq!(order(&["a", "a", "b", "c", "b"]).await, ["a", "b", "c", "a", "b"]);
    }

    #[tokio::test]
    async fn a_passed_turn_goes_to_the_others_first() {
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
    async fn attempts_that_no_longer_wait_are_skipped() {
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
        // It has the turn by now, though it was not polled since.
        drop(granted);
        assert!(last.as_mut().now_or_never().is_some());
        assert!(turns.take(&b).now_or_never().is_some(), "all turns are free");
    }
}
