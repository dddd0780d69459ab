//! Limits the connections. At the limit, a new connection replaces the one that has been idle the longest.
//!
//! Otherwise one client could open all connections, stay silent, and shut out every other client. A connection with a request
//! in progress is not closed; its timeouts bound it.
//!
//! If no connection is idle, a few spare ones are accepted beyond the limit. They answer health probes and refuse other
//! requests, unless a regular place becomes free.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::phase::PhaseTracker;

/// The connections that are accepted beyond the limit.
const SPARE_CONNECTIONS: usize = 64;
/// A connection that has sent nothing yet is not closed before this time, since its first request may be on its way.
const MIN_SILENCE: Duration = Duration::from_millis(500);
/// The longest time for which a new connection waits until an idle one is closed.
const CLOSE_PATIENCE: Duration = Duration::from_millis(250);

/// Admits connections.
pub(super) struct AdmissionControl {
    max_connections: usize,
    permits: Arc<Semaphore>,
    spare_permits: Arc<Semaphore>,
    open: Mutex<HashMap<u64, OpenConnection>>,
    last_id: AtomicU64,
}

struct OpenConnection {
    phases: PhaseTracker,
    close: CancellationToken,
}

/// The place of one connection. Dropping it frees the place.
pub(super) struct ConnectionPermit {
    /// Whether the connection is beyond the limit. Its requests then need a regular permit, except health probes.
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
            permits: Arc::new(Semaphore::new(max_connections)),
            spare_permits: Arc::new(Semaphore::new(SPARE_CONNECTIONS)),
            open: Mutex::default(),
            last_id: AtomicU64::new(0),
        }
    }

    /// Admits a connection. Waits if even the spare places are taken.
    ///
    /// # Cancel safety
    /// Dropping the future frees the place.
    pub(super) async fn admit(&self) -> ConnectionPermit {
        if let Some(permit) = self.acquire_regular().await {
            return ConnectionPermit { is_spare: false, _permit: permit };
        }
        let (regular, spare) = (Arc::clone(&self.permits), Arc::clone(&self.spare_permits));
        tokio::select! {
            biased;
            Ok(permit) = regular.acquire_owned() => ConnectionPermit { is_spare: false, _permit: permit },
            Ok(permit) = spare.acquire_owned() => ConnectionPermit { is_spare: true, _permit: permit },
            // The semaphores are never closed.
            else => std::future::pending().await,
        }
    }

    /// Acquires a regular permit: a free one, or that of the connection that has been idle the longest.
    pub(super) async fn acquire_regular(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        if !self.close_longest_idle() {
            let max_connections = self.max_connections;
            tracing::warn!(
                "all server.max_connections = {max_connections} connections have a request in progress; others are refused"
            );
            return None;
        }
        let permit = tokio::time::timeout(CLOSE_PATIENCE, Arc::clone(&self.permits).acquire_owned()).await;
        permit.ok()?.ok()
    }

    /// Closes the connection that has been idle the longest. Returns `false` if none is idle.
    pub(super) fn close_longest_idle(&self) -> bool {
        let mut open = self.open.lock();
        let idle_since = |connection: &OpenConnection| {
            let (since, is_new) = connection.phases.idle_since()?;
            (!is_new || since.elapsed() >= MIN_SILENCE).then_some(since)
        };
        let longest_idle = open
            .iter()
            .filter_map(|(id, connection)| Some((idle_since(connection)?, *id)))
            .min_by_key(|(since, _)| *since);
        // Removes the connection, so that the next call picks another one.
        let closed = longest_idle.and_then(|(_, id)| open.remove(&id));
        closed.is_some_and(|connection| {
            connection.close.cancel();
            true
        })
    }

    /// Registers a connection as one that may be closed while it is idle, by cancelling `close`.
    pub(super) fn register(self: &Arc<Self>, phases: PhaseTracker, close: CancellationToken) -> ConnectionEntry {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(id, OpenConnection { phases, close });
        ConnectionEntry { admission: Arc::clone(self), id }
    }

    /// The number of open connections.
    pub(super) fn open_connections(&self) -> usize {
        self.max_connections + SPARE_CONNECTIONS
            - self.permits.available_permits()
            - self.spare_permits.available_permits()
    }

    /// Waits until every connection is closed. No connection is admitted meanwhile.
    pub(super) async fn wait_until_all_closed(&self) {
        let all = |connections| u32::try_from(connections).unwrap_or(u32::MAX);
        let _regular = self.permits.acquire_many(all(self.max_connections)).await;
        let _spare = self.spare_permits.acquire_many(all(SPARE_CONNECTIONS)).await;
    }
}
