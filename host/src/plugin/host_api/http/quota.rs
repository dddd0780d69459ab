//! What one plugin may hold of what all share: lookups of names, and connections.
//!
//! A lookup holds a thread until the resolver of the system gives up, whoever still waits for it; a connection holds a
//! descriptor, used or not. So each plugin has a share of its own, over all its versions, and a few connections that it
//! gets even when the others hold all that the server spares.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lookups of one plugin under way. The threads for lookups suffice for many plugins that use up theirs.
const LOOKUPS: usize = 8;
/// Connections of one plugin, used or idle.
pub(super) const CONNECTIONS: usize = 64;
/// Connections of all plugins together, beside those that each has for itself.
const ALL_CONNECTIONS: usize = 512;
/// Connections that a plugin has for itself.
const OWN_CONNECTIONS: usize = 4;
/// How long is waited for a share that is used up: what ends is nearly always quicker, what hangs is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// The shares of all plugins.
#[derive(Debug)]
pub(in crate::plugin) struct ConnectionQuotas {
    connections: Arc<Semaphore>,
    plugins: Mutex<HashMap<String, Weak<ConnectionQuota>>>,
}

/// The share of one plugin.
#[derive(Debug)]
pub(super) struct ConnectionQuota {
    pub(super) lookups: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// Leave to have one connection, for as long as this lives.
#[derive(Debug)]
pub(super) struct ConnectionHold {
    _of_plugin: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Default for ConnectionQuotas {
    fn default() -> Self {
        Self { connections: Arc::new(Semaphore::new(ALL_CONNECTIONS)), plugins: Mutex::default() }
    }
}

impl ConnectionQuotas {
    /// The share of a plugin: that of its other versions as well.
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
            own: share(OWN_CONNECTIONS),
            all: self.connections.clone(),
        });
        plugins.insert(plugin.to_owned(), Arc::downgrade(&quota));
        quota
    }
}

impl ConnectionQuota {
    /// Leave for one lookup; `None` if as many as a plugin may have are under way and none ends.
    pub(super) async fn lookup(&self) -> Option<OwnedSemaphorePermit> {
        patiently(self.lookups.clone()).await
    }

    /// Leave for one connection; `None` if the plugin, or all of them, have as many as they may and none ends.
    pub(super) async fn connection(&self) -> Option<ConnectionHold> {
        let of_plugin = patiently(self.connections.clone()).await?;
        let of_all = match self.own.clone().try_acquire_owned() {
            Ok(own) => own,
            Err(_) => patiently(self.all.clone()).await?,
        };
        Some(ConnectionHold { _of_plugin: of_plugin, _of_all: of_all })
    }
}

async fn patiently(share: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(PATIENCE, share.acquire_owned()).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_plugin_has_a_share_over_all_its_versions_and_connections_of_its_own() {
        let quotas = ConnectionQuotas::default();
        let (first, second) = (quotas.of("a"), quotas.of("a"));
        assert!(Arc::ptr_eq(&first, &second));
        let _held: Vec<_> = first.lookups.clone().try_acquire_many_owned(8).into_iter().collect();
        assert!(second.lookup().await.is_none() && quotas.of("b").lookup().await.is_some());

        let all = quotas.connections.clone().try_acquire_many_owned(512).unwrap();
        let mut held = Vec::new();
        for _ in 0..OWN_CONNECTIONS {
            held.push(first.connection().await.unwrap());
        }
        assert!(first.connection().await.is_none(), "nothing is left of what all share");
        drop(all);
        while let Some(one) = first.connections.available_permits().checked_sub(1).map(|_| first.connection()) {
            held.push(one.await.unwrap());
        }
        assert_eq!(held.len(), CONNECTIONS);
        assert!(first.connection().await.is_none() && quotas.of("b").connection().await.is_some());
    }
}
