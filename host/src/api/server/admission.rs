//! Limits the connections. When all places are taken and another client waits, a connection without progress gives way.
//!
//! Otherwise one client could open all connections, stop anywhere in a request or an answer, and shut out every other client.
//! A connection is spared while its client sends or reads, and while its request is handled. The client with the most
//! connections gives way first.
//!
//! If no connection gives way, a few spare ones are accepted beyond the limit. They answer health probes. Another request
//! waits on them for a place, once it has arrived whole, and is refused if none becomes free.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::phase::PhaseTracker;

/// The connections that are accepted beyond the limit.
const SPARE_CONNECTIONS: usize = 64;
/// The longest time for which a waiting client relies on a connection that gives way to close.
const CLOSE_PATIENCE: Duration = Duration::from_millis(250);
/// The shortest time between two searches for a connection that gives way.
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
    open: Mutex<HashMap<u64, OpenConnection>>,
    last_id: AtomicU64,
}

/// A connection as the others see it.
pub(super) struct OpenConnection {
    pub(super) client: IpAddr,
    pub(super) is_spare: bool,
    pub(super) phases: PhaseTracker,
    /// Cancelled when the connection gives way.
    pub(super) give_way: CancellationToken,
}

/// The place of one connection. Dropping it frees the place.
pub(super) struct ConnectionPermit {
    /// Whether the connection is beyond the limit. Its requests then need a place, except health probes.
    pub(super) is_spare: bool,
    _permit: OwnedSemaphorePermit,
}

/// Keeps a connection registered until it is dropped.
pub(super) struct ConnectionEntry {
    admission: Arc<AdmissionControl>,
    id: u64,
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        self.admission.open.lock().remove(&self.id);
    }
}

impl AdmissionControl {
    pub(super) fn new(max_connections: usize) -> Self {
        Self {
            max_connections,
            places: Arc::new(Semaphore::new(max_connections)),
            spare_places: Arc::new(Semaphore::new(SPARE_CONNECTIONS)),
            open: Mutex::default(),
            last_id: AtomicU64::new(0),
        }
    }

    /// Admits a connection. Waits if even the spare places are taken.
    ///
    /// # Cancel safety
    /// Dropping the future frees the place.
    pub(super) async fn admit(&self) -> ConnectionPermit {
        let regular = |permit| ConnectionPermit { is_spare: false, _permit: permit };
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return regular(permit);
        }
        let mut place = pin!(Arc::clone(&self.places).acquire_owned());
        let mut spare_place = pin!(Arc::clone(&self.spare_places).acquire_owned());
        if self.make_room(false, false).is_ok()
            && let Ok(Ok(permit)) = tokio::time::timeout(CLOSE_PATIENCE, &mut place).await
        {
            return regular(permit);
        }
        let mut search_at = Instant::now();
        loop {
            // The semaphores are never closed.
            tokio::select! {
                biased;
                Ok(permit) = &mut place => return regular(permit),
                Ok(permit) = &mut spare_place => return ConnectionPermit { is_spare: true, _permit: permit },
                () = sleep_until(search_at) => {}
            }
            search_at = self.make_room(true, false).map_or_else(|at| at, |()| Instant::now() + CLOSE_PATIENCE);
        }
    }

    /// Acquires a place for a request that has arrived on a spare connection. Returns `None` if none becomes free in time.
    pub(super) async fn acquire_place(&self) -> Option<OwnedSemaphorePermit> {
        let mut place = pin!(Arc::clone(&self.places).acquire_owned());
        let begin = Instant::now();
        let mut search_at = begin;
        loop {
            tokio::select! {
                biased;
                permit = &mut place => return permit.ok(),
                () = sleep_until(search_at) => {}
            }
            let now = Instant::now();
            if now >= begin + PLACE_PATIENCE {
                let max_connections = self.max_connections;
                tracing::warn!(
                    "all server.max_connections = {max_connections} connections have a request in progress; others are refused"
                );
                return None;
            }
            let slow_too = now >= begin + SLOW_PATIENCE;
            let search_by = begin + if slow_too { PLACE_PATIENCE } else { SLOW_PATIENCE };
            search_at = self.make_room(false, slow_too).map_or_else(|at| at, |()| now + CLOSE_PATIENCE).min(search_by);
        }
    }

    /// Makes a connection give way, on a regular place unless `spare_too`: of the client with the most connections the one that
    /// has made no progress for the longest time. With `slow_too`, a client that sends or reads very slowly makes no progress.
    ///
    /// # Errors
    /// When to try again, if no connection gives way now.
    pub(super) fn make_room(&self, spare_too: bool, slow_too: bool) -> Result<(), Instant> {
        let open = self.open.lock();
        let mut by_client: HashMap<IpAddr, usize> = HashMap::new();
        for connection in open.values() {
            *by_client.entry(connection.client).or_default() += 1;
        }
        let candidates = || {
            let considered = open.values().filter(|connection| spare_too || !connection.is_spare);
            considered.filter_map(|connection| Some((connection.phases.gives_way_at(slow_too)?, connection)))
        };
        let now = Instant::now();
        let first = candidates()
            .filter(|(at, _)| *at <= now)
            .min_by_key(|(at, connection)| (Reverse(by_client.get(&connection.client).copied()), *at));
        if let Some((_, connection)) = first
            && connection.phases.evict(slow_too)
        {
            connection.give_way.cancel();
            return Ok(());
        }
        let next = candidates().map(|(at, _)| at).min();
        Err(next.unwrap_or(now + CLOSE_PATIENCE).max(now + MIN_SEARCH_PAUSE))
    }

    /// Registers a connection, so that it may give way.
    pub(super) fn register(self: &Arc<Self>, connection: OpenConnection) -> ConnectionEntry {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        let client = client_network(connection.client);
        self.open.lock().insert(id, OpenConnection { client, ..connection });
        ConnectionEntry { admission: Arc::clone(self), id }
    }

    /// The number of open connections.
    pub(super) fn open_connections(&self) -> usize {
        self.max_connections + SPARE_CONNECTIONS
            - self.places.available_permits()
            - self.spare_places.available_permits()
    }

    /// Waits until every connection is closed. No connection is admitted meanwhile.
    pub(super) async fn wait_until_all_closed(&self) {
        let all = |connections| u32::try_from(connections).unwrap_or(u32::MAX);
        let _regular = self.places.acquire_many(all(self.max_connections)).await;
        let _spare = self.spare_places.acquire_many(all(SPARE_CONNECTIONS)).await;
    }
}

/// What the connections of one client have in common. A client with IPv6 usually has all addresses of a /64 network.
fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::memory_budget::MemoryBudget;

    #[test]
    fn the_client_with_the_most_connections_gives_way_first() {
        let admission = Arc::new(AdmissionControl::new(4));
        let open = |client: &str, is_spare| {
            let phases = PhaseTracker::new(&MemoryBudget::new(0));
            phases.record_bytes(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            // A request that was answered.
            drop(phases.begin_request(&mut axum::http::Request::new(String::new())));
            let give_way = CancellationToken::new();
            let connection =
                OpenConnection { client: client.parse().unwrap(), is_spare, phases, give_way: give_way.clone() };
            (admission.register(connection), give_way)
        };
        let connections = [
            open("2001:db8::1", false),
            open("10.0.0.1", false),
            open("::ffff:10.0.0.1", false),
            open("2001:db8::2", false),
            open("2001:db8:0:1::2", true),
            open("2001:db8::3", false),
        ];
        let mut order = Vec::new();
        for _ in 0..5 {
            admission.make_room(false, false).unwrap();
            let gone = |index: &usize| connections[*index].1.is_cancelled() && !order.contains(index);
            let next = (0..connections.len()).find(gone).unwrap();
            order.push(next);
        }
        assert_eq!(order, [0, 3, 5, 1, 2]);
        admission.make_room(false, false).unwrap_err();
        admission.make_room(true, false).unwrap();
        assert!(connections[4].1.is_cancelled());
    }
}
