//! The one place where things are put together, and taken apart in the right order.
//!
//! How a server starts and stops is in [`serve`].

mod descriptors;
mod facts;
mod serve;
mod transfer;
mod workbench;

pub use serve::run;
pub use transfer::{backup, export, import};

pub use crate::event::EventFault;
pub use crate::plugin::{CompileLimits, PluginSettings, compile_and_answer};
pub use crate::transfer::{ExportNotice, TransferCounts};
pub use workbench::{InspectError, PluginFacts, PluginInspector, PluginTrial};

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::api::{self, PluginControl};
use crate::broker::embedded::{self, EmbeddedBroker};
use crate::broker::redis::{self, RedisBroker};
use crate::broker::{Broker, ConsumerDirectory, Lane};
use crate::config::Config;
use crate::event::EventType;
use crate::plugin::{self, PluginRegistry, PluginReport};
use crate::shutdown::TaskGroup;
use crate::worker;

/// How long the broker's last words may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// After this time plugins that are still being loaded no longer keep the host from being ready: one that compiles for
/// minutes is not to hold up the others.
const PLUGINS_AWAITED: Duration = Duration::from_secs(30);
/// The most plugins that are named where several are waited for.
const MAX_NAMED: usize = 5;

/// A fact that a person who starts the program needs, as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupFact(pub String);

impl fmt::Display for StartupFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the program could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// A setting, ours or the store's, is not one to serve with.
    #[error("{0}")]
    Refused(String),
    /// Anything else.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl From<redis::RedisOpenError> for Error {
    fn from(error: redis::RedisOpenError) -> Self {
        match error {
            redis::RedisOpenError::Unreachable { .. } | redis::RedisOpenError::Refusing { .. } => {
                Self::Unreachable(error.to_string())
            }
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<embedded::EmbeddedOpenError> for Error {
    fn from(error: embedded::EmbeddedOpenError) -> Self {
        match error {
            embedded::EmbeddedOpenError::InUse(_)
            | embedded::EmbeddedOpenError::Held(_)
            | embedded::EmbeddedOpenError::Full(_) => Self::Unreachable(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

/// Opens the broker that a URL names: `embedded:DIRECTORY`, or a Redis.
pub(crate) async fn open_broker(config: &Config, tasks: &TaskGroup) -> Result<Arc<dyn Broker>, Error> {
    let (url, options) = (config.broker_url.as_str(), config.broker.clone());
    if let Some(directory) = url.strip_prefix("embedded:") {
        let (directory, tasks) = (std::path::PathBuf::from(directory), tasks.clone());
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

/// What the configuration says of plugins.
fn plugin_options(config: &Config) -> Result<plugin::RegistryOptions, Error> {
    let refused = |place: String| move |error: plugin::InvalidSettings| Error::Refused(format!("{place}: {error}"));
    let limits = plugin::LimitsPatch::from_table(config.plugins.limits.clone())
        .map_err(refused("plugins.limits".into()))?
        .over(plugin::AttemptLimits {
            payload_bytes: config.max_payload_bytes as u64,
            ..plugin::AttemptLimits::default()
        });
    let mut settings = std::collections::BTreeMap::new();
    for (name, table) in &config.plugins.by_name {
        let parsed = plugin::PluginSettings::from_table(table.clone()).map_err(refused(format!("plugins.{name}")))?;
        settings.insert(name.clone(), parsed);
    }
    Ok(plugin::RegistryOptions {
        dir: config.plugins.dir.clone(),
        may_make_dir: config.plugins.may_make_dir,
        concurrency: worker::WorkerOptions::host_concurrency_for(config.worker.concurrency),
        plugin_concurrency: config.worker.concurrency,
        limits,
        policies: config.worker.policies.clone(),
        settings,
        data_dir: config.plugins.data_dir.clone(),
        cache_max_bytes: config.plugins.cache_max_bytes,
        hold_new_capabilities: config.plugins.hold_new_capabilities,
        hold_taken_types: config.plugins.hold_taken_types,
        notice: config.plugins.watch.method,
        rescan_ms: config.plugins.watch.rescan_ms,
        settle_ms: config.plugins.watch.settle_ms,
        resolve: plugin::given_addresses(&config.plugins.resolve).map_err(refused("plugins.resolve".into()))?,
        compiler: plugin::Compiler::Child(compiler(config.plugins.compile)?),
        ..plugin::RegistryOptions::default()
    })
}

/// This program again, as the command `compile`.
fn compiler(limits: plugin::CompileLimits) -> anyhow::Result<plugin::CompileChild> {
    let arguments = vec!["compile".into()];
    // On Linux this leads to what runs, also when a newer file has taken its place.
    let running = std::path::PathBuf::from("/proc/self/exe");
    let program = if running.exists() {
        running
    } else {
        std::env::current_exe().context("this program does not find its own file, which is to compile plugins")?
    };
    Ok(plugin::CompileChild { program, arguments, limits })
}

/// What the API is told of plugins.
struct RegistryControl {
    registry: Arc<PluginRegistry>,
    consumers: Arc<dyn ConsumerDirectory>,
    started: Instant,
}

#[async_trait::async_trait]
impl PluginControl for RegistryControl {
    fn lane(&self, event_type: &EventType) -> Lane {
        worker::lane_of(&self.registry, &*self.consumers, event_type)
    }

    fn trouble(&self) -> Option<String> {
        if !self.registry.is_starting() || self.started.elapsed() >= PLUGINS_AWAITED {
            return None;
        }
        let awaited = self.registry.awaited();
        let more = awaited.len().saturating_sub(MAX_NAMED);
        let named = awaited.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
        Some(match (named.as_str(), more) {
            ("", _) => "plugins are being loaded; events are accepted and wait".into(),
            (_, 0) => format!("plugins are being loaded: {named}; events for them are accepted and wait"),
            _ => format!("plugins are being loaded: {named} and {more} more; events for them are accepted and wait"),
        })
    }

    fn statuses(&self) -> Vec<serde_json::Value> {
        self.registry.statuses().iter().filter_map(|status| serde_json::to_value(status).ok()).collect()
    }

    fn overlooked(&self) -> Vec<String> {
        self.registry.unmatched()
    }

    async fn rollback(&self, name: &str) -> Result<serde_json::Value, api::PluginChangeError> {
        let status = self.registry.rollback(name).await.map_err(|error| match error {
            plugin::RollbackError::Unknown(_) => api::PluginChangeError::Unknown(error.to_string()),
            _ => api::PluginChangeError::Refused(error.to_string()),
        })?;
        told(&status)
    }

    async fn approve(&self, name: &str, digest: Option<&str>) -> Result<serde_json::Value, api::PluginChangeError> {
        let status = self.registry.approve(name, digest).await.map_err(|error| match error {
            plugin::ApproveError::Unknown(_) => api::PluginChangeError::Unknown(error.to_string()),
            plugin::ApproveError::Unnamed { .. } => api::PluginChangeError::Unnamed(error.to_string()),
            _ => api::PluginChangeError::Refused(error.to_string()),
        })?;
        told(&status)
    }

    async fn remove(&self, name: &str) -> Result<serde_json::Value, api::PluginChangeError> {
        let removal = self.registry.remove(name).await.map_err(|error| match error {
            plugin::RemoveError::Unknown(_) => api::PluginChangeError::Unknown(error.to_string()),
            plugin::RemoveError::File { .. } => api::PluginChangeError::Refused(error.to_string()),
        })?;
        let mut document = told(&removal.status)?;
        document["file"] = removal.file.to_string_lossy().into();
        document["settings"] = removal.settings.map(|settings| settings.to_string_lossy().into_owned()).into();
        Ok(document)
    }
}

fn told(status: &PluginReport) -> Result<serde_json::Value, api::PluginChangeError> {
    serde_json::to_value(status).map_err(|error| api::PluginChangeError::Refused(error.to_string()))
}
