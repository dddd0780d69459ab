//! Limits the connections. When all places are taken and another client waits, a connection without progress gives way.
//!
//! Otherwise one client could open all connections, stop anywhere in a request or an answer, and shut out every other client.
//! A connection is spared while its client sends or reads, and while its request is handled. Clients that may be gone give way
//! first, then those with the most connections.
//!
//! Nobody waits to be accepted. Beyond the limit, a few spare connections answer health probes. Another request waits on them
//! for a place once it has arrived whole, and is refused if none becomes free. If many are spare, one of them gives way to
//! each further one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::phase::{PhaseTracker, Shortage, YieldReason};
use super::socket::ClientSocket;
use crate::api::memory_budget::MemoryBudget;

/// The connections that are accepted beyond the limit.
const SPARE_CONNECTIONS: usize = 128;
/// From so many spare connections on, one gives way to each further one. The rest of them is for those that are closing.
const CROWDED_SPARES: usize = SPARE_CONNECTIONS / 2;
/// How many newcomers without a place are admitted before other tasks run. Those must not wait long, and the newcomers behind
/// must not either: a turn of all tasks takes long when many large bodies arrive.
const ADMITTED_TOGETHER: u64 = 32;
/// How often a newcomer lets other tasks run before it is refused.
const MAX_YIELDS: usize = 16;
/// The time that a connection which gives way has to close, before another one is looked for.
const CLOSE_PATIENCE: Duration = Duration::from_millis(250);
/// The shortest time between two searches of a waiting request for a connection that gives way.
const MIN_SEARCH_PAUSE: Duration = Duration::from_millis(10);
/// The time for which a request waits before slow clients give way, too. It is long enough for a client to be seen to stall.
const SLOW_PATIENCE: Duration = Duration::from_millis(1_500);
/// The longest time for which a request waits for a place.
const PLACE_PATIENCE: Duration = Duration::from_secs(3);

/// Admits connections.
pub(super) struct AdmissionControl {
    max_connections: usize,
    places: Arc<Semaphore>,
    spare_places: Arc<Semaphore>,
    open: Mutex<OpenConnections>,
}

#[derive(Default)]
struct OpenConnections {
    last_id: u64,
    with_place: HashMap<u64, OpenConnection>,
    spare: HashMap<u64, OpenConnection>,
    by_client: HashMap<IpAddr, usize>,
}

/// A connection as the others see it.
struct OpenConnection {
    client: IpAddr,
    socket: ClientSocket,
    phases: PhaseTracker,
    give_way: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// An open connection, until it is dropped.
pub(super) struct AdmittedConnection {
    admission: Arc<AdmissionControl>,
    id: u64,
    has_place: AtomicBool,
    /// What the connections of this client have in common.
    pub(super) client: IpAddr,
    pub(super) socket: ClientSocket,
    pub(super) phases: PhaseTracker,
    /// Cancelled when the connection gives way.
    pub(super) give_way: CancellationToken,
}

/// A connection that may give way.
#[derive(Clone, Copy, Debug)]
struct YieldOffer {
    id: u64,
    reason: YieldReason,
    from: Instant,
    /// The connections of its client.
    connections: usize,
}

impl AdmissionControl {
    pub(super) fn new(max_connections: usize) -> Self {
        Self {
            max_connections,
            places: Arc::new(Semaphore::new(max_connections)),
            spare_places: Arc::new(Semaphore::new(SPARE_CONNECTIONS)),
            open: Mutex::default(),
        }
    }

    /// Admits a connection. Another one may give way to it. Returns `None` if even the spare ones are taken, or if its client may
    /// be gone and all places are taken. This waits for no client, but without a place it lets other tasks run.
    ///
    /// # Cancel safety
    /// If the future is dropped, the connection is not admitted.
    pub(super) async fn admit(
        self: &Arc<Self>,
        socket: &ClientSocket,
        address: IpAddr,
        memory: &MemoryBudget,
    ) -> Option<AdmittedConnection> {
        if self.places.available_permits() == 0 && socket.may_be_left_behind() {
            return None;
        }
        for _ in 0..MAX_YIELDS {
            let admitted = self.try_admit(socket, address, memory);
            if let Some(connection) = &admitted
                && (connection.has_place() || connection.id % ADMITTED_TOGETHER != 0)
            {
                return admitted;
            }
            // Lets those close that gave way, or their number would grow until others are refused.
            tokio::task::yield_now().await;
            if admitted.is_some() {
                return admitted;
            }
        }
        self.warn_all_taken();
        None
    }

    fn try_admit(
        self: &Arc<Self>,
        socket: &ClientSocket,
        address: IpAddr,
        memory: &MemoryBudget,
    ) -> Option<AdmittedConnection> {
        let (place, has_place) = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => (place, true),
            Err(_) => {
                // Whether or not one gives way, the newcomer sends its request first.
                let _ = self.make_room(Shortage::Place, 1);
                let _ = self.make_room(Shortage::Connection, 1);
                (Arc::clone(&self.spare_places).try_acquire_owned().ok()?, false)
            }
        };
        let client = client_network(address);
        let (phases, give_way) = (PhaseTracker::new(memory), CancellationToken::new());
        let connection = OpenConnection {
            client,
            socket: socket.clone(),
            phases: phases.clone(),
            give_way: give_way.clone(),
            _place: place,
        };
        let mut open = self.open.lock();
        open.last_id += 1;
        let id = open.last_id;
        *open.by_client.entry(client).or_default() += 1;
        if has_place { &mut open.with_place } else { &mut open.spare }.insert(id, connection);
        drop(open);
        let (admission, has_place) = (Arc::clone(self), AtomicBool::new(has_place));
        Some(AdmittedConnection { admission, id, has_place, client, socket: socket.clone(), phases, give_way })
    }

    /// Makes a connection give way because of a shortage, unless enough of them are closing. `newcomers` are not admitted yet.
    ///
    /// # Errors
    /// When to try again, if no connection gives way now.
    pub(super) fn make_room(&self, shortage: Shortage, newcomers: usize) -> Result<(), Instant> {
        let open = self.open.lock();
        let waiting = open.spare.len() + newcomers;
        let (candidates, wanted) = match shortage {
            Shortage::Place | Shortage::LastingPlace => (&open.with_place, waiting),
            Shortage::Connection => (&open.spare, waiting.saturating_sub(CROWDED_SPARES)),
        };
        let now = Instant::now();
        let closing = || candidates.values().filter(|connection| connection.phases.is_evicted()).count();
        if wanted == 0 || closing() >= wanted {
            return Err(now + CLOSE_PATIENCE);
        }
        let offers = candidates.iter().filter_map(|(id, connection)| {
            let (reason, from) = connection.phases.gives_way(shortage, connection.socket.signs())?;
            let connections = open.by_client.get(&connection.client).copied().unwrap_or_default();
            Some(YieldOffer { id: *id, reason, from, connections })
        });
        let next = match pick(offers, now) {
            Ok(id) => {
                if let Some(connection) = candidates.get(&id)
                    && connection.phases.evict(shortage, connection.socket.signs())
                {
                    connection.give_way.cancel();
                    return Ok(());
                }
                None
            }
            Err(next) => next,
        };
        Err(next.unwrap_or(now + CLOSE_PATIENCE).max(now + MIN_SEARCH_PAUSE))
    }

    /// The number of open connections.
    pub(super) fn open_connections(&self) -> usize {
        let open = self.open.lock();
        open.with_place.len() + open.spare.len()
    }

    /// Waits until every connection is closed. No connection is admitted meanwhile.
    pub(super) async fn wait_until_all_closed(&self) {
        let all = |connections| u32::try_from(connections).unwrap_or(u32::MAX);
        let _regular = self.places.acquire_many(all(self.max_connections)).await;
        let _spare = self.spare_places.acquire_many(all(SPARE_CONNECTIONS)).await;
    }

    fn warn_all_taken(&self) {
        let max_connections = self.max_connections;
        tracing::warn!(
            "all server.max_connections = {max_connections} connections have a request in progress; others are refused"
        );
    }
}

impl AdmittedConnection {
    /// Whether the connection has a place. Else its requests need one, except health probes.
    pub(super) fn has_place(&self) -> bool {
        self.has_place.load(Ordering::Relaxed)
    }

    /// Acquires a place for a request that has arrived, and keeps it for later ones. Returns whether it got one. Without one,
    /// the request must not be handled: none became free in time, or the connection gave way.
    ///
    /// # Cancel safety
    /// If the future is dropped, the connection gets no place.
    pub(super) async fn acquire_place(&self) -> bool {
        let admission = &*self.admission;
        let mut place = pin!(Arc::clone(&admission.places).acquire_owned());
        self.phases.begin_wait();
        let begin = Instant::now();
        let mut search_at = begin;
        loop {
            tokio::select! {
                biased;
                () = self.give_way.cancelled() => return false,
                Ok(place) = &mut place => {
                    self.take_place(place);
                    return self.phases.end_wait();
                }
                () = sleep_until(search_at) => {}
            }
            let yields = self.phases.gives_way(Shortage::Place, self.socket.signs());
            if yields.is_some_and(|(reason, _)| reason == YieldReason::Leaving) {
                return false;
            }
            let now = Instant::now();
            if now >= begin + PLACE_PATIENCE {
                admission.warn_all_taken();
                return false;
            }
            let (shortage, search_by) = if now >= begin + SLOW_PATIENCE {
                (Shortage::LastingPlace, begin + PLACE_PATIENCE)
            } else {
                (Shortage::Place, begin + SLOW_PATIENCE)
            };
            search_at = admission.make_room(shortage, 0).map_or_else(|at| at, |()| now + CLOSE_PATIENCE).min(search_by);
        }
    }

    fn take_place(&self, place: OwnedSemaphorePermit) {
        let mut open = self.admission.open.lock();
        if let Some(connection) = open.spare.remove(&self.id) {
            open.with_place.insert(self.id, OpenConnection { _place: place, ..connection });
            self.has_place.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for AdmittedConnection {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock();
        let with_place = open.with_place.remove(&self.id);
        let closed = with_place.or_else(|| open.spare.remove(&self.id));
        if let Some(connections) = open.by_client.get_mut(&self.client) {
            *connections -= 1;
            if *connections == 0 {
                open.by_client.remove(&self.client);
            }
        }
        drop(open);
        drop(closed);
    }
}

/// The connection that gives way by now: by its reason, then of the client with the most connections, then the one that has
/// offered it for the longest time.
///
/// # Errors
/// When the next one offers it, if any does.
fn pick(offers: impl Iterator<Item = YieldOffer> + Clone, now: Instant) -> Result<u64, Option<Instant>> {
    let due = offers.clone().filter(|offer| offer.from <= now);
    let first = due.min_by_key(|offer| (offer.reason, Reverse(offer.connections), offer.from));
    first.map(|offer| offer.id).ok_or_else(|| offers.map(|offer| offer.from).min())
}

/// What the connections of one client have in common. A client with IPv6 usually has all addresses of a /64 network.
fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests;
