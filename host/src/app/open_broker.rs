//! Opens the broker that the configuration names, and closes it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::error::Error;
use crate::broker::Broker;
use crate::broker::embedded::EmbeddedBroker;
use crate::broker::redis::RedisBroker;
use crate::config::Config;
use crate::shutdown::TaskGroup;

/// The longest time that closing a broker may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the broker of a URL: `embedded:DIRECTORY`, or a Redis.
///
/// # Errors
/// [`Error::Unreachable`] or [`Error::Refused`], with the reason.
pub(super) async fn open_broker(config: &Config, tasks: &TaskGroup) -> Result<Arc<dyn Broker>, Error> {
    let (url, options) = (config.broker_url.as_str(), config.broker.clone());
    if let Some(directory) = url.strip_prefix("embedded:") {
        let (directory, tasks) = (PathBuf::from(directory), tasks.clone());
        let opened = tokio::task::spawn_blocking(move || EmbeddedBroker::open(&directory, options, &tasks)).await;
        return Ok(opened.context("the embedded store was not opened")??);
    }
    #[cfg(feature = "test-util")]
    if let Some(mutant) = mutant()? {
        return Ok(RedisBroker::open_mutant(url, options, mutant, tasks).await?);
    }
    Ok(RedisBroker::open(url, options, tasks).await?)
}

/// The guarantee to break, in a build for tests only.
#[cfg(feature = "test-util")]
fn mutant() -> anyhow::Result<Option<crate::broker::redis::testing::BrokerMutant>> {
    match std::env::var("EVENTSTREAM_TEST_MUTANT") {
        Ok(name) => Ok(Some(name.parse()?)),
        Err(_) => Ok(None),
    }
}

/// Closes a broker, so that the store forgets this consumer. Returns `false` if that failed or took too long: the other hosts
/// then forget it when its lease ends.
pub(super) async fn close_broker(broker: &dyn Broker) -> bool {
    matches!(tokio::time::timeout(CLOSE_TIMEOUT, broker.close()).await, Ok(Ok(())))
}
