//! Opens a store: the URL, the first checks, and the errors that an operator reads.

use std::sync::Arc;

use redis::IntoConnectionInfo;

use super::client::StoreClient;
use super::connection::{CallFailure, FailureCause, LOSS, RedisLink, ServerVetting, describe_failure, unreachable};
use super::health::HealthCheck;
use super::heartbeat::Heartbeat;
use super::process_identity::new_consumer_name;
use super::scripts::ScriptSet;
use super::scripts::keys::ShardKeys;
use super::server_settings::inspect_server;
use super::transfer::RedisSnapshot;
use crate::broker::{BrokerOptions, Lane, SnapshotReader};
use crate::secret::{RedactedUrl, SecretText};

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

/// Why the broker could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisOpenError {
    /// No Redis answers, or it is not ready. Retry later.
    #[error("Redis at {address} cannot be reached: {reason}; is it running, and is the address right?")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the connection or the server said.
        reason: String,
    },
    /// Redis answers but refuses every write. Retry later.
    #[error("Redis at {address} cannot be used yet: {reason}")]
    Refusing {
        /// Host and port.
        address: String,
        /// The cause and the remedy.
        reason: String,
    },
    /// The settings may lose accepted events (G1). The message names the command that repairs them.
    #[error("{0}")]
    Unsafe(String),
    /// The server is too old, a replica, or part of a cluster.
    #[error("{0}")]
    Unsupported(String),
    /// The URL does not name a single Redis without TLS.
    #[error("the broker URL {url:?} cannot be used: {reason}")]
    BadUrl {
        /// The URL without its password.
        url: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// Redis denies access, or a key of ours holds another type.
    #[error("{0}")]
    Misconfigured(String),
}

impl RedisOpenError {
    /// The error for the first call that failed.
    pub(super) fn from_failure(link: &RedisLink, failure: CallFailure) -> Self {
        let (address, message) = (link.address(), &failure.message);
        match failure.reaction.cause {
            FailureCause::Denied if message.contains("NOAUTH") || message.contains("WRONGPASS") => {
                Self::Misconfigured(format!(
                    "Redis at {address} requires a password, or another one: write it in the URL as \
                     redis://:PASSWORD@HOST:PORT ({message})"
                ))
            }
            FailureCause::Unreachable if message.contains("DB index is out of range") => Self::Misconfigured(format!(
                "Redis at {address} has no database with the number at the end of the URL: {message}"
            )),
            FailureCause::Denied | FailureCause::Misplaced | FailureCause::NoRoom => {
                Self::Misconfigured(failure.message)
            }
            FailureCause::Demoted => Self::Unsupported(failure.message),
            FailureCause::NoReplicas | FailureCause::CannotPersist | FailureCause::Busy | FailureCause::Held => {
                Self::Refusing { address: address.to_owned(), reason: describe_failure(&failure) }
            }
            _ => {
                let reason = message.strip_prefix(&unreachable(address)).unwrap_or(message);
                Self::Unreachable { reason: reason.to_owned(), address: address.to_owned() }
            }
        }
    }
}

/// Begins to read the store at a URL without becoming its consumer. Writes nothing. Unsafe settings are accepted, because
/// they are a reason to move the data.
///
/// # Errors
/// See [`RedisOpenError`]. Nothing is retried here.
pub async fn snapshot(url: &str, options: BrokerOptions) -> Result<Box<dyn SnapshotReader>, RedisOpenError> {
    let consumer = new_consumer_name(&options.consumer_name);
    let keys = ShardKeys::new(&options.namespace);
    let client = Arc::new(StoreClient::new(link_for_url(url, &keys)?, ScriptSet::new(), keys, consumer));
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
            Err(failure) if failure.reaction.cause == FailureCause::Held => {
                tracing::warn!("{}", failure.message);
                tokio::time::sleep(link.vetting().hold_left()).await;
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

/// A link for the URL of a store with these keys, not connected yet.
///
/// # Errors
/// [`RedisOpenError::BadUrl`]
pub(super) fn link_for_url(url: &str, keys: &ShardKeys) -> Result<RedisLink, RedisOpenError> {
    let bad = |reason: &str| RedisOpenError::BadUrl { url: RedactedUrl(url).to_string(), reason: reason.to_owned() };
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("redis" | "valkey") => {}
        Some("rediss" | "valkeys") => {
            return Err(bad("TLS is not supported; use redis:// through a tunnel or on a private network"));
        }
        Some("redis-sentinel") => return Err(bad("Sentinel is not supported; name the primary with redis://")),
        Some("redis-cluster") => return Err(bad("clusters are not supported; name a single Redis with redis://")),
        _ => return Err(bad("its form is redis://[user:password@]host[:port][/database]")),
    }
    // Otherwise the parser takes the middle of the password for the host, and messages would show it.
    if url
        .split_once("://")
        .is_some_and(|(_, rest)| rest.find(['/', '?', '#']).is_some_and(|end| rest[end..].contains('@')))
    {
        return Err(bad("encode special characters of the password: @ as %40, / as %2F, ? as %3F, # as %23"));
    }
    let info = url.into_connection_info().map_err(|error| bad(&error.to_string()))?;
    let address = info.addr().to_string();
    let settings = info.tcp_settings().clone().set_nodelay(true);
    let password = info.redis_settings().password().map(SecretText::from);
    let client = redis::Client::open(info.set_tcp_settings(settings)).map_err(|error| bad(&error.to_string()))?;
    Ok(RedisLink::new(client, address, password, ServerVetting::new(keys)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusable_url_is_explained_without_its_password() {
        let keys = ShardKeys::new("es");
        for (url, word) in [
            ("rediss://me:hunter2@host", "TLS"),
            ("redis-sentinel://host", "Sentinel"),
            ("redis-cluster://host", "cluster"),
            ("http://host", "redis://"),
            ("nonsense", "redis://"),
            ("redis://me:hunter2@host/notadatabase", "atabase"),
            ("redis://:hunter2", "redis://***"),
            ("redis://me:hun@ter2/a@host", "%2F"),
            ("redis://me:hun@ter2#a@host", "redis://***@host"),
            ("redis:me:hunter2@host", "redis://"),
        ] {
            let error = link_for_url(url, &keys).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("ter2"), "{error}");
        }
        assert!(link_for_url("redis://127.0.0.1:6379/3", &keys).is_ok());
    }
}
