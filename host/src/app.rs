//! The one place where things are put together, and taken apart in the right order.
//!
//! Start: everything that can be refused is refused before anything is served. Stop (G10): no more requests, no more
//! deliveries; attempts end or are handed back; the broker's own tasks end last, since settles need them.

mod descriptors;
mod transfer;
mod workbench;

pub use transfer::{backup, export, import};

pub use crate::event::Fault;
pub use crate::plugin::{CompileLimits, compile_and_answer};
pub use crate::transfer::{Moved, Told};
pub use workbench::{Facts, NoPlugin, OnBench, Workbench};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{self, Api, Entrance, Routes};
use crate::broker::embedded::{self, EmbeddedBroker};
use crate::broker::redis::{self, RedisBroker};
use crate::broker::{Broker, Lane};
use crate::config::Config;
use crate::event::EventType;
use crate::plugin::{self, PluginState, Registry, Status};
use crate::shutdown::Tasks;
use crate::telemetry::Log;
use crate::worker::{self, Worker};

/// How long the broker's last words may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// A fact that a person who starts the program needs, as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact(pub String);

impl fmt::Display for Fact {
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

impl From<redis::OpenError> for Error {
    fn from(error: redis::OpenError) -> Self {
        match error {
            redis::OpenError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<embedded::OpenError> for Error {
    fn from(error: embedded::OpenError) -> Self {
        match error {
            embedded::OpenError::InUse(_) | embedded::OpenError::Full(_) => Self::Unreachable(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

/// Serves until it is told to stop by SIGTERM or SIGINT, or until a part without which it makes no sense fails. The log
/// ends with it.
///
/// # Errors
/// What it needs is not there, or something has failed. A second signal ends at once, as an error.
pub async fn run(config: Config, log: Log, mut announce: impl FnMut(&Fact)) -> Result<(), Error> {
    descriptors::raise_limit();
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let listen = config.server.listen;
    let listener = api::listen(listen)
        .with_context(|| format!("cannot listen on {listen}; another address is given with --listen ADDRESS:PORT"))?;
    let address = listener.local_addr().context("the listener has no address")?;

    let store_tasks = Tasks::new();
    let tasks = Tasks::new();
    let broker = open_broker(&config, &store_tasks).await?;
    let plugins = open_plugins(&config).await?;

    let (store_ended, stop) = (store_tasks.stop_token().clone(), tasks.stop_token().clone());
    let store_failure = store_tasks.clone();
    tasks.spawn_critical("store", async move {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = store_ended.cancelled() => store_failure.failure().map_or(Ok(()), Err),
        }
    });
    let worker_options = worker::Options {
        concurrency: config.worker.concurrency,
        host_concurrency: worker::Options::host_concurrency_for(config.worker.concurrency),
        lease: Duration::from_millis(config.worker.lease_ms),
        drain: Duration::from_millis(config.worker.drain_ms),
        policies: config.worker.policies.clone(),
        max_waiting: config.broker.max_waiting,
    };
    let worker =
        Worker::start(broker.clone(), plugins.clone(), worker_options, &tasks).context("the worker cannot start")?;
    let watched = plugins.clone();
    let stop = tasks.stop_token().clone();
    tasks.spawn_critical("plugins", async move {
        watched.watch(stop).await;
        Ok(())
    });
    let (unwritten, stop) = (log.unwritten().clone(), tasks.stop_token().clone());
    tasks.spawn_critical("log", async move {
        unwritten.tell(stop).await;
        Ok(())
    });
    let entrance = Entrance::new(Api {
        broker: broker.clone(),
        routes: Arc::new(PluginRoutes(plugins.clone())),
        options: config.server.clone(),
        draining: tasks.stop_token().clone(),
        unwritten: log.unwritten().clone(),
    });
    let (server, stop, connections) = (config.server.clone(), tasks.stop_token().clone(), tasks.clone());
    tasks.spawn_critical("http", async move { api::serve(listener, entrance, server, stop, &connections).await });

    for fact in facts(&config, broker.as_ref(), &plugins) {
        announce(&fact);
    }
    announce(&Fact(format!("listening on http://{address}")));

    tokio::select! {
        name = signals.next() => {
            tracing::info!("{name} received: stopping; a second signal stops at once");
            tasks.stop_token().cancel();
        }
        () = tasks.stop_token().cancelled() => {}
    }
    let ended = async {
        tokio::join!(worker.stop(), tasks.ended());
        if !matches!(tokio::time::timeout(GOODBYE, broker.close()).await, Ok(Ok(()))) {
            tracing::warn!("the broker could not be told good-bye; others forget this consumer after its lease");
        }
        drop(broker);
        store_tasks.stop_token().cancel();
        store_tasks.ended().await;
    };
    tokio::select! {
        () = ended => tasks.failure().map_or(Ok(()), |failure| Err(failure.into())),
        name = signals.next() => Err(anyhow::anyhow!("stopped at once by a second signal, {name}").into()),
    }
}

/// Opens the broker that a URL names: `embedded:DIRECTORY`, or a Redis.
pub(crate) async fn open_broker(config: &Config, tasks: &Tasks) -> Result<Arc<dyn Broker>, Error> {
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
fn mutant() -> anyhow::Result<Option<crate::broker::redis::Mutant>> {
    match std::env::var("EVENTSTREAM_TEST_MUTANT") {
        Ok(name) => Ok(Some(name.parse()?)),
        Err(_) => Ok(None),
    }
}

async fn open_plugins(config: &Config) -> Result<Arc<Registry>, Error> {
    Registry::open(plugin_options(config)?).await.map_err(|error| match error {
        plugin::Error::Directory { .. } | plugin::Error::NothingKept(_) => Error::Refused(error.to_string()),
        plugin::Error::Sandbox { .. } => Error::Failed(error.into()),
    })
}

/// What the configuration says of plugins.
fn plugin_options(config: &Config) -> Result<plugin::Options, Error> {
    let refused = |place: String| move |error: plugin::InvalidSettings| Error::Refused(format!("{place}: {error}"));
    let limits = plugin::LimitsPatch::from_table(config.plugins.limits.clone())
        .map_err(refused("plugins.limits".into()))?
        .over(plugin::Limits { payload_bytes: config.max_payload_bytes as u64, ..plugin::Limits::default() });
    let mut settings = std::collections::BTreeMap::new();
    for (name, table) in &config.plugins.by_name {
        let parsed = plugin::Settings::from_table(table.clone()).map_err(refused(format!("plugins.{name}")))?;
        settings.insert(name.clone(), parsed);
    }
    Ok(plugin::Options {
        dir: config.plugins.dir.clone(),
        concurrency: worker::Options::host_concurrency_for(config.worker.concurrency),
        limits,
        policies: config.worker.policies.clone(),
        settings,
        data_dir: config.plugins.data_dir.clone(),
        cache_max_bytes: config.plugins.cache_max_bytes,
        hold_new_capabilities: config.plugins.hold_new_capabilities,
        notice: config.plugins.follow.notice,
        rescan_ms: config.plugins.follow.rescan_ms,
        settle_ms: config.plugins.follow.settle_ms,
        resolve: plugin::given_addresses(&config.plugins.resolve).map_err(refused("plugins.resolve".into()))?,
        compiler: plugin::Compiler::Child(compiler(config.plugins.compile)?),
        ..plugin::Options::default()
    })
}

/// This program again, as the command `compile`.
fn compiler(limits: plugin::CompileLimits) -> anyhow::Result<plugin::Child> {
    let plugin::CompileLimits { memory_bytes, cpu_ms, .. } = limits;
    let arguments = vec!["compile".into(), format!("--memory-bytes={memory_bytes}"), format!("--cpu-ms={cpu_ms}")];
    // On Linux this leads to what runs, also when a newer file has taken its place.
    let running = std::path::PathBuf::from("/proc/self/exe");
    let program = if running.exists() {
        running
    } else {
        std::env::current_exe().context("this program does not find its own file, which is to compile plugins")?
    };
    Ok(plugin::Child { program, arguments, limits })
}

/// What a person needs to know at the start, besides the address.
fn facts(config: &Config, broker: &dyn Broker, plugins: &Registry) -> Vec<Fact> {
    let durability = broker.health().durability.as_str();
    let mut lines = vec![format!("broker {} at {}, durability {durability}", broker.name(), config.broker_url)];
    let statuses = plugins.statuses();
    if statuses.is_empty() {
        let dir = config.plugins.dir.display();
        lines.push(format!("no plugins in {dir}: a .wasm file that is put there is loaded at once"));
    }
    lines.extend(statuses.iter().map(describe));
    lines.into_iter().map(Fact).collect()
}

fn describe(status: &Status) -> String {
    let types: Vec<String> = status.types.iter().map(ToString::to_string).collect();
    match (&status.error, status.state) {
        (None, _) => format!("plugin {} handles {}", status.name, types.join(", ")),
        (Some(error), PluginState::FailedKeptLastGood | PluginState::NeedsApproval) if !types.is_empty() => {
            format!("plugin {} handles {} with its last good version: {error}", status.name, types.join(", "))
        }
        (Some(error), _) => format!("plugin {} is not served: {error}", status.name),
    }
}

/// What the API is told of plugins.
struct PluginRoutes(Arc<Registry>);

#[async_trait::async_trait]
impl Routes for PluginRoutes {
    fn lane(&self, event_type: &EventType) -> Lane {
        worker::lane_of(&self.0, event_type)
    }

    fn statuses(&self) -> Vec<serde_json::Value> {
        self.0.statuses().iter().filter_map(|status| serde_json::to_value(status).ok()).collect()
    }

    async fn rollback(&self, name: &str) -> Result<serde_json::Value, api::NotChanged> {
        let status = self.0.rollback(name).await.map_err(|error| match error {
            plugin::RollbackError::Unknown(_) => api::NotChanged::Unknown(error.to_string()),
            _ => api::NotChanged::Refused(error.to_string()),
        })?;
        told(&status)
    }

    async fn approve(&self, name: &str, digest: Option<&str>) -> Result<serde_json::Value, api::NotChanged> {
        let status = self.0.approve(name, digest).await.map_err(|error| match error {
            plugin::ApproveError::Unknown(_) => api::NotChanged::Unknown(error.to_string()),
            _ => api::NotChanged::Refused(error.to_string()),
        })?;
        told(&status)
    }

    async fn remove(&self, name: &str) -> Result<serde_json::Value, api::NotChanged> {
        let removal = self.0.remove(name).await.map_err(|error| match error {
            plugin::RemoveError::Unknown(_) => api::NotChanged::Unknown(error.to_string()),
            plugin::RemoveError::File { .. } => api::NotChanged::Refused(error.to_string()),
        })?;
        let mut document = told(&removal.status)?;
        document["file"] = removal.file.to_string_lossy().into();
        document["settings"] = removal.settings.map(|settings| settings.to_string_lossy().into_owned()).into();
        Ok(document)
    }
}

fn told(status: &Status) -> Result<serde_json::Value, api::NotChanged> {
    serde_json::to_value(status).map_err(|error| api::NotChanged::Refused(error.to_string()))
}

/// The signals that stop the program.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
