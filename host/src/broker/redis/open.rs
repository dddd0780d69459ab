//! Opens a store: the first checks, and what it lost since this host last served it.

use std::sync::Arc;

use super::client::StoreClient;
use super::connection::{FailureCause, LOSS};
use super::health::HealthCheck;
use super::heartbeat::Heartbeat;
use super::open_error::RedisOpenError;
use super::process_identity::new_consumer_name;
use super::redis_url::link_for_url;
use super::scripts::ScriptSet;
use super::server_settings::inspect_server;
use super::transfer::RedisSnapshot;
use crate::broker::{BrokerOptions, Lane, SnapshotReader};

/// Periods that are the same in every deployment, but shorter in tests.
#[derive(Clone, Copy, Debug)]
pub struct RedisTuning {
    /// The period of the health check, in milliseconds.
    pub check_every_ms: u64,
    /// The least time for which processed events are kept, in milliseconds, whatever the retention says. The place of an
    /// event lets the store recognize a repeated call whose reply was lost.
    pub min_retention_ms: u64,
}

impl Default for RedisTuning {
    fn default() -> Self {
        Self { check_every_ms: 10_000, min_retention_ms: 15_000 }
    }
}

/// Begins to read the store at a URL without becoming its consumer. Writes nothing. Unsafe settings are accepted, because
/// they are a reason to move the data.
///
/// # Errors
/// See [`RedisOpenError`]. Nothing is retried here.
pub async fn snapshot(url: &str, options: BrokerOptions) -> Result<Box<dyn SnapshotReader>, RedisOpenError> {
    let consumer = new_consumer_name(&options.consumer_name);
    let link = link_for_url(url, &options)?;
    let client = Arc::new(StoreClient::new(link, ScriptSet::new(), &options.namespace, consumer));
    let failed = |failure| RedisOpenError::from_failure(&client.link, failure);
    if let Some(reason) = inspect_server(&client.link).await.map_err(failed)?.unsupported {
        return Err(RedisOpenError::Unsupported(reason));
    }
    Ok(Box::new(RedisSnapshot::begin(client.clone()).await.map_err(failed)?))
}

/// Checks the server and makes what is missing in the store, before the first request.
pub(super) async fn prepare_store(health: &HealthCheck, heartbeat: &Heartbeat) -> Result<(), RedisOpenError> {
    let link = &health.client.link;
    let failed = |failure| RedisOpenError::from_failure(link, failure);
    let known = health.known_store.read().await;
    if known.as_ref().is_some_and(|known| known.had_replicas(link.address())) {
        link.vetting().set_has_replicas(true);
    }
    let verdict = loop {
        match health.inspect_server().await {
            Err(failure) if failure.reaction.cause == FailureCause::Quarantined => {
                tracing::warn!("{}", failure.message);
                tokio::time::sleep(link.vetting().quarantine_left()).await;
            }
            inspected => break inspected.map_err(failed)?,
        }
    };
    if let Some(reason) = verdict.unsupported {
        return Err(RedisOpenError::Unsupported(reason));
    }
    if let Some(reason) = verdict.unsafe_settings.filter(|_| !health.allow_unsafe) {
        return Err(RedisOpenError::Unsafe(reason));
    }
    health.lanes.refresh(&[Lane::unrouted()]).await.map_err(failed)?;
    let found = health.inspect_store().await.map_err(failed)?;
    let epoch = found.as_ref().map_or("", |found| &*found.epoch);
    if known.as_ref().is_some_and(|known| known.had_keys(link.address(), epoch)) {
        health.client.note_keys();
    }
    let lost = known.zip(found).filter(|(known, found)| known.is_lost(link.address(), found));
    let lost_epoch = lost.as_ref().map_or("", |(known, _)| &known.epoch);
    if health.epoch.adopt(lost_epoch).await.map_err(failed)?
        && let Some((known, found)) = &lost
    {
        let (had, has, before, now) =
            (known.accepted, found.accepted, &known.replication_id, link.vetting().replication_id());
        tracing::error!(
            "{LOSS} (while this host was down: {had} events had been accepted, the store knows {has}; the replication id \
             was {before} and is {now})"
        );
    }
    heartbeat.beat().await.map_err(failed)?;
    health.check().await.map_err(failed)?;
    health.probe().await;
    health.remember_store().await;
    // Until here, the caller reports what is wrong. From here on, the log does.
    health.client.troubles().start_logging();
    Ok(())
}
