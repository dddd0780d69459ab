//! How many name lookups and connections one plugin may have.
//!
//! A lookup holds a thread until the system's resolver gives up, even if its request was dropped. A connection holds a file
//! descriptor, even if it is idle. So all versions of a plugin have one share together, and a few connections are reserved
//! for each plugin.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many lookups of one plugin may run. There are threads for many plugins that use all of theirs.
const LOOKUPS: usize = 8;
/// How many connections one plugin may have, busy or idle.
pub(super) const CONNECTIONS: usize = 64;
/// How many connections all plugins may have together, besides the reserved ones.
const SHARED_CONNECTIONS: usize = 512;
/// How many connections are reserved for each plugin.
const RESERVED_CONNECTIONS: usize = 4;
/// How long to wait for a share that is used up. Nearly all lookups and requests end within it.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// The shares of all plugins.
#[derive(Debug)]
pub struct ConnectionQuotas {
    connections: Arc<Semaphore>,
    plugins: Mutex<HashMap<String, Weak<ConnectionQuota>>>,
}

/// The share of one plugin.
#[derive(Debug)]
pub(super) struct ConnectionQuota {
    pub(super) lookups: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// The right to one connection. Dropping it gives the right back.
#[derive(Debug)]
pub(super) struct OutgoingPermit {
    _of_plugin: OwnedSemaphorePermit,
    _of_host: OwnedSemaphorePermit,
}

impl Default for ConnectionQuotas {
    fn default() -> Self {
        Self { connections: Arc::new(Semaphore::new(SHARED_CONNECTIONS)), plugins: Mutex::default() }
    }
}

impl ConnectionQuotas {
    /// The share of a plugin, which all its versions use.
    pub(super) fn of(&self, plugin: &str) -> Arc<ConnectionQuota> {
        let mut plugins = self.plugins.lock();
        if let Some(quota) = plugins.get(plugin).and_then(Weak::upgrade) {
            return quota;
        }
        plugins.retain(|_, quota| quota.strong_count() > 0);
        let share = |permits| Arc::new(Semaphore::new(permits));
        let quota = Arc::new(ConnectionQuota {
            lookups: share(LOOKUPS),
            connections: share(CONNECTIONS),
            reserved: share(RESERVED_CONNECTIONS),
            shared: self.connections.clone(),
        });
        plugins.insert(plugin.to_owned(), Arc::downgrade(&quota));
        quota
    }
}

impl ConnectionQuota {
    /// Acquires a lookup; `None` if the plugin has used up its share and no lookup ends within [`MAX_WAIT`].
    pub(super) async fn acquire_lookup(&self) -> Option<OwnedSemaphorePermit> {
        acquire(self.lookups.clone()).await
    }

    /// Acquires a connection; `None` if a share is used up and no connection ends within [`MAX_WAIT`].
    pub(super) async fn acquire_connection(&self) -> Option<OutgoingPermit> {
        let of_plugin = acquire(self.connections.clone()).await?;
        let of_host = match self.reserved.clone().try_acquire_owned() {
            Ok(reserved) => reserved,
            Err(_) => acquire(self.shared.clone()).await?,
        };
        Some(OutgoingPermit { _of_plugin: of_plugin, _of_host: of_host })
    }
}

async fn acquire(share: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(MAX_WAIT, share.acquire_owned()).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_versions_of_a_plugin_have_one_share_and_reserved_connections() {
        let quotas = ConnectionQuotas::default();
        let (first, second) = (quotas.of("a"), quotas.of("a"));
        assert!(Arc::ptr_eq(&first, &second));
        let _held: Vec<_> = first.lookups.clone().try_acquire_many_owned(8).into_iter().collect();
        assert!(second.acquire_lookup().await.is_none() && quotas.of("b").acquire_lookup().await.is_some());

        let all = quotas.connections.clone().try_acquire_many_owned(512).unwrap();
        let mut held = Vec::new();
        for _ in 0..RESERVED_CONNECTIONS {
            held.push(first.acquire_connection().await.unwrap());
        }
        assert!(first.acquire_connection().await.is_none(), "no shared connection is left");
        drop(all);
        while let Some(one) = first.connections.available_permits().checked_sub(1).map(|_| first.acquire_connection()) {
            held.push(one.await.unwrap());
        }
        assert_eq!(held.len(), CONNECTIONS);
        assert!(first.acquire_connection().await.is_none() && quotas.of("b").acquire_connection().await.is_some());
    }
}
