//! Hands out the turns to make pages of events, which take memory and time.
//!
//! Few wait for a turn, and a further request is refused after a moment: a request that waits holds its connection. Turns and
//! waiting places are shared fairly between clients, so that one client cannot take all of them. A client that may be gone
//! comes last.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::problem::Problem;
use super::requester::Requester;

/// The most pages of events that are read and written as JSON at a time. Until its answer is charged, a page takes up to
/// three times [`MAX_PAGE_BYTES`](crate::broker::MAX_PAGE_BYTES).
const MAX_PAGES: usize = 4;
/// The most requests that wait for a turn.
const MAX_WAITING: usize = 8;
/// The longest time for which a request waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a refusal. Clients that ask again at once would otherwise take the time that accepting needs.
const REFUSAL_PAUSE: Duration = Duration::from_millis(300);
/// The most refusals that pause. Each holds a connection.
const MAX_PAUSED: usize = 64;

/// The turns. Clones share them.
#[derive(Clone)]
pub(super) struct PageTurns {
    queue: Arc<Mutex<PageQueue>>,
    pauses: Arc<Semaphore>,
}

impl Default for PageTurns {
    fn default() -> Self {
        Self { queue: Arc::default(), pauses: Arc::new(Semaphore::new(MAX_PAUSED)) }
    }
}

#[derive(Default)]
struct PageQueue {
    /// The client of each page that is being made.
    making: Vec<IpAddr>,
    /// In the order of their arrival.
    waiting: Vec<WaitingRequest>,
}

struct WaitingRequest {
    requester: Requester,
    turn: oneshot::Sender<()>,
}

/// A request as the decisions see it.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    client: IpAddr,
    may_be_gone: bool,
}

/// A turn. Dropping it gives it to the next request.
pub(super) struct PageTurn {
    turns: PageTurns,
    client: IpAddr,
}

impl Drop for PageTurn {
    fn drop(&mut self) {
        let mut queue = self.turns.queue.lock();
        if let Some(index) = queue.making.iter().position(|client| *client == self.client) {
            queue.making.swap_remove(index);
        }
        queue.hand_out();
    }
}

/// The place of a request that waits. Dropping it gives the place back, and passes on a turn that came meanwhile.
struct WaitingPlace {
    turns: PageTurns,
    client: IpAddr,
    turn: oneshot::Receiver<()>,
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.turn.close();
        self.turns.queue.lock().remove_closed();
        if self.turn.try_recv().is_ok() {
            drop(self.turns.turn_of(self.client));
        }
    }
}

impl fmt::Debug for PageTurns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageTurns").finish_non_exhaustive()
    }
}

impl PageTurns {
    /// Waits for a turn to make a page. From then on the request is carried to its end: the store reads on anyway.
    ///
    /// # Errors
    /// The refusal to answer with: too many wait, or no turn came in time. Trying again helps.
    ///
    /// # Cancel safety
    /// If the future is dropped, the request no longer waits.
    pub(super) async fn enter(&self, requester: &Requester) -> Result<PageTurn, Problem> {
        let client = requester.client();
        let joined = self.queue.lock().join(requester);
        let turn = match joined {
            Ok(turn) => turn,
            Err(refusal) => {
                if let Ok(_pause) = self.pauses.try_acquire() {
                    tokio::time::sleep(REFUSAL_PAUSE).await;
                }
                return Err(refusal);
            }
        };
        let mut place = WaitingPlace { turns: self.clone(), client, turn };
        let turn = tokio::time::timeout(PATIENCE, &mut place.turn).await;
        match turn {
            Ok(Ok(())) => {
                requester.carry_on();
                Ok(self.turn_of(client))
            }
            // Its place was given to another client.
            Ok(Err(_)) => Err(busy()),
            Err(_) => Err(Problem::overloaded("other requests for pages of events take too long: try again")),
        }
    }

    fn turn_of(&self, client: IpAddr) -> PageTurn {
        PageTurn { turns: self.clone(), client }
    }
}

impl PageQueue {
    /// Takes in a request. It may have its turn at once.
    fn join(&mut self, requester: &Requester) -> Result<oneshot::Receiver<()>, Problem> {
        if self.waiting.len() >= MAX_WAITING {
            let waiters: Vec<Waiter> = self.waiters().collect();
            let displaced = displaced_by(requester.client(), &waiters).ok_or_else(busy)?;
            self.waiting.remove(displaced);
        }
        let (turn, receiver) = oneshot::channel();
        self.waiting.push(WaitingRequest { requester: requester.clone(), turn });
        self.hand_out();
        Ok(receiver)
    }

    fn hand_out(&mut self) {
        while self.making.len() < MAX_PAGES {
            let waiters: Vec<Waiter> = self.waiters().collect();
            let Some(next) = next_turn(&self.making, &waiters) else { break };
            let WaitingRequest { requester, turn } = self.waiting.remove(next);
            if turn.send(()).is_ok() {
                self.making.push(requester.client());
            }
        }
    }

    fn remove_closed(&mut self) {
        self.waiting.retain(|waiting| !waiting.turn.is_closed());
    }

    fn waiters(&self) -> impl Iterator<Item = Waiter> {
        let waiter = |WaitingRequest { requester, .. }: &WaitingRequest| Waiter {
            client: requester.client(),
            may_be_gone: requester.may_be_gone(),
        };
        self.waiting.iter().map(waiter)
    }
}

/// Which request has the next turn: of the client with the fewest pages in the making the one that came first. Those whose
/// clients may be gone come last.
fn next_turn(making: &[IpAddr], waiting: &[Waiter]) -> Option<usize> {
    let pages_of = |client| making.iter().filter(|other| **other == client).count();
    let key = |index: &usize| waiting.get(*index).map(|waiter| (waiter.may_be_gone, pages_of(waiter.client), *index));
    (0..waiting.len()).min_by_key(key)
}

/// Which request gives its waiting place to a newcomer: one whose client may be gone, else the last one of the client with the
/// most. `None` if the newcomer would wait for the client with the most itself.
fn displaced_by(newcomer: IpAddr, waiting: &[Waiter]) -> Option<usize> {
    let requests_of = |client| waiting.iter().filter(|other| other.client == client).count();
    let gone = waiting.iter().position(|waiter| waiter.may_be_gone);
    gone.or_else(|| {
        let (index, most) = waiting.iter().enumerate().max_by_key(|(index, it)| (requests_of(it.client), *index))?;
        (requests_of(newcomer) + 1 < requests_of(most.client)).then_some(index)
    })
}

fn busy() -> Problem {
    Problem::overloaded(format!("{MAX_PAGES} pages of events are being made and {MAX_WAITING} wait: try again"))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn waiters(clients: &[(u8, bool)]) -> Vec<Waiter> {
        clients
            .iter()
            .map(|(number, may_be_gone)| Waiter { client: client(*number), may_be_gone: *may_be_gone })
            .collect()
    }

    #[test]
    fn the_client_with_the_fewest_pages_is_next_and_one_that_may_be_gone_last() {
        let next = |making: &[u8], waiting: &[(u8, bool)]| {
            let making: Vec<IpAddr> = making.iter().map(|number| client(*number)).collect();
            next_turn(&making, &waiters(waiting))
        };
        assert_eq!(next(&[1], &[]), None);
        assert_eq!(next(&[1], &[(1, false), (1, false), (2, false), (2, false)]), Some(2));
        assert_eq!(next(&[1, 2], &[(1, false), (2, false)]), Some(0));
        assert_eq!(next(&[1, 2, 2], &[(2, false), (1, false)]), Some(1));
        assert_eq!(next(&[1], &[(2, true), (1, false)]), Some(1));
        assert_eq!(next(&[1], &[(2, true)]), Some(0), "it gets its turn when no other waits");
    }

    #[test]
    fn a_newcomer_displaces_the_last_request_of_a_client_that_waits_for_more() {
        let displaced = |newcomer, waiting: &[(u8, bool)]| displaced_by(client(newcomer), &waiters(waiting));
        assert_eq!(displaced(2, &[(1, false), (1, false), (1, false), (2, false)]), Some(2));
        assert_eq!(displaced(2, &[(1, false), (1, false), (2, false)]), None, "it would only change places");
        assert_eq!(displaced(1, &[(1, false), (1, false)]), None);
        assert_eq!(displaced(1, &[(1, false), (1, true)]), Some(1));
        assert_eq!(displaced(3, &[(1, false), (2, false)]), None);
    }

    #[tokio::test]
    async fn few_wait_and_those_who_leave_make_room() {
        let turns = PageTurns::default();
        let (one, other) = (Requester::unconnected(client(1)), Requester::unconnected(client(2)));
        let mut making = Vec::new();
        for _ in 0..MAX_PAGES {
            making.push(turns.enter(&one).await.unwrap());
        }
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(turns.enter(&one))).collect();
        for request in &mut waiting {
            assert!(futures_util::poll!(request).is_pending());
        }
        let refused = turns.enter(&one).await.map(drop).unwrap_err();
        assert_eq!((refused.status(), refused.retry_after_s()), (StatusCode::SERVICE_UNAVAILABLE, Some(1)));
        // Another client takes the place of the last one, and has the next turn.
        let mut newcomer = Box::pin(turns.enter(&other));
        assert!(futures_util::poll!(&mut newcomer).is_pending());
        let displaced = waiting.pop().unwrap().await.map(drop).unwrap_err();
        assert_eq!(displaced.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(making.pop());
        making.push(newcomer.await.unwrap());
        // One leaves as its turn comes.
        drop(making.pop());
        drop(waiting.remove(0));
        making.push(waiting.remove(0).await.unwrap());
        waiting.clear();
        let lengths = || {
            let queue = turns.queue.lock();
            (queue.making.len(), queue.waiting.len())
        };
        assert_eq!(lengths(), (MAX_PAGES, 0));
        let late = turns.enter(&one).await.map(drop).unwrap_err();
        assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(making);
        assert_eq!(lengths(), (0, 0));
    }
}
