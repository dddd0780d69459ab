//! Which connections are served: up to a limit, past which those that wait for a request give way to newcomers.
//!
//! One client could otherwise open as many connections as there may be, keep quiet, and have everybody else wait. A
//! connection in the midst of a request does not give way, its time-outs bound it. For the case that all are, a few more
//! connections are accepted: probes of health are answered on them, everything else with a refusal.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::connection::PhaseTracker;

/// How many connections are accepted beyond the limit.
const SPARE_CONNECTIONS: usize = 64;
/// How long a connection without any request must have been silent to give way: its request may be on its way.
const MIN_SILENCE: Duration = Duration::from_millis(500);
/// How long a newcomer waits until a connection that gives way is closed.
const CLOSE_PATIENCE: Duration = Duration::from_millis(250);

/// Lets connections in.
pub(super) struct AdmissionControl {
    max_connections: usize,
    places: Arc<Semaphore>,
    spare_places: Arc<Semaphore>,
    open: Mutex<HashMap<u64, OpenConnection>>,
    last_id: AtomicU64,
}

struct OpenConnection {
    phases: PhaseTracker,
    close: CancellationToken,
}

/// Room for one connection. Dropping it makes room for another.
pub(super) struct ConnectionPermit {
    /// Beyond the limit: for probes of health, and for a request that finds a regular place when it comes.
    pub(super) is_spare: bool,
    _permit: OwnedSemaphorePermit,
}

/// A connection that is known to be open. Dropping it forgets it.
pub(super) struct ConnectionEntry {
    admission: Arc<AdmissionControl>,
    id: u64,
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        self.admission.lock().remove(&self.id);
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

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, OpenConnection>> {
        self.open.lock()
    }

    /// A place for a connection that was accepted; waits for one where even the spare ones are taken.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place back.
    pub(super) async fn admit(&self) -> ConnectionPermit {
        if let Some(permit) = self.make_room().await {
            return ConnectionPermit { is_spare: false, _permit: permit };
        }
        let (regular, spare) = (Arc::clone(&self.places), Arc::clone(&self.spare_places));
        tokio::select! {
            biased;
            Ok(permit) = regular.acquire_owned() => ConnectionPermit { is_spare: false, _permit: permit },
            Ok(permit) = spare.acquire_owned() => ConnectionPermit { is_spare: true, _permit: permit },
            // Nothing closes the semaphores.
            else => std::future::pending().await,
        }
    }

    /// A regular place: a free one, or that of the connection that has waited the longest for a request.
    pub(super) async fn make_room(&self) -> Option<OwnedSemaphorePermit> {
        let free = || Arc::clone(&self.places).try_acquire_owned().ok();
        if let Some(place) = free() {
            return Some(place);
        }
        if !self.close_quietest() {
            let max_connections = self.max_connections;
            tracing::warn!(
                "all server.max_connections = {max_connections} connections are in the midst of a request; others are \
                 refused"
            );
            return None;
        }
        let place = tokio::time::timeout(CLOSE_PATIENCE, Arc::clone(&self.places).acquire_owned()).await;
        place.ok()?.ok()
    }

    /// Closes the connection that has waited the longest for a request. `false` if none does.
    pub(super) fn close_quietest(&self) -> bool {
        let mut open = self.lock();
        let quiet_since = |connection: &OpenConnection| {
            let (since, is_new) = connection.phases.quiet_since()?;
            (!is_new || since.elapsed() >= MIN_SILENCE).then_some(since)
        };
        let quietest = open
            .iter()
            .filter_map(|(id, connection)| Some((quiet_since(connection)?, *id)))
            .min_by_key(|(since, _)| *since);
        // One that is told to close is not told again.
        let closed = quietest.and_then(|(_, id)| open.remove(&id));
        closed.is_some_and(|connection| {
            connection.close.cancel();
            true
        })
    }

    /// Makes a connection known, so that it can give way: by cancelling `close`.
    pub(super) fn list(self: &Arc<Self>, phases: PhaseTracker, close: CancellationToken) -> ConnectionEntry {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, OpenConnection { phases, close });
        ConnectionEntry { admission: Arc::clone(self), id }
    }

    /// The connections that are open.
    pub(super) fn open_connections(&self) -> usize {
        self.max_connections + SPARE_CONNECTIONS
            - self.places.available_permits()
            - self.spare_places.available_permits()
    }

    /// Waits until no connection is open any more. Lets none in from then on.
    pub(super) async fn all_ended(&self) {
        let all = |connections| u32::try_from(connections).unwrap_or(u32::MAX);
        let _regular = self.places.acquire_many(all(self.max_connections)).await;
        let _spare = self.spare_places.acquire_many(all(SPARE_CONNECTIONS)).await;
    }
}
