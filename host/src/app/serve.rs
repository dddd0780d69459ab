//! A server from its start to its end.
//!
//! Start: the server listens first, so that it is alive. Then it opens the broker and accepts events. Plugins load in the
//! background, and each serves as soon as it is ready. A fault that makes serving impossible ends the start.
//!
//! Stop (G10): no more requests and deliveries are taken. Attempts end or are handed back. The broker's tasks end last, since
//! settling needs them. A stop works at any moment of the start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::api::{self, ApiState, Gateway, KeyRing};
use crate::api_key::KeyToken;
use crate::broker::{Broker, PauseBoard};
use crate::config::Config;
use crate::plugin::{PluginRegistry, RegistryOptions};
use crate::shutdown::{EarlyStop, StopSignals, TaskGroup};
use crate::telemetry::LogGuard;
use crate::worker::{Worker, WorkerOptions};

use super::error::Error;
use super::keys::{FirstKey, make_first_key, open_keys};
use super::plugin_options::plugin_options;
use super::registry_control::RegistryControl;
use super::startup_facts::{StartupReporter, describe_broker};
use super::store::{close_broker, open_broker};

/// The longest time that answers in progress have to end after a start that failed.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that accepts and handles events.
struct RunningServer {
    broker: Arc<dyn Broker>,
    keys: Arc<KeyRing>,
    /// The key that the start had to make.
    made_key: Option<KeyToken>,
    plugins: Arc<PluginRegistry>,
    pauses: Arc<PauseBoard>,
    worker: Worker,
}

/// Serves until SIGTERM, SIGINT or SIGHUP arrives, or until a critical task fails. The log ends with the server.
///
/// If a stop interrupts the start, the broker may still be opening on a thread of the runtime. That thread need not be awaited:
/// no event is lost with it. `early_stop` ends the program at a signal until this function listens for signals.
///
/// # Errors
/// The server cannot start, or a critical task failed. A second signal ends the server at once with an error.
pub async fn run(
    config: Config,
    log: LogGuard,
    early_stop: Option<EarlyStop>,
    first_key: FirstKey,
    mut announce: impl FnMut(&str),
) -> Result<(), Error> {
    // Comes first, so that no signal is missed.
    let mut signals = StopSignals::listen().context("cannot listen for signals")?;
    drop(early_stop);
    raise_file_limit();
    let mut plugin_options = plugin_options(&config)?;
    let plugins_dir = &config.plugins.dir;
    if !config.plugins.may_make_dir && !plugins_dir.exists() {
        let remedy = "make it, or name another (plugins.dir, --plugins)";
        return Err(Error::Refused(format!("the plugin directory {plugins_dir:?} is not there: {remedy}")));
    }
    let listen = config.server.listen;
    let listener = api::listen(listen)
        .with_context(|| format!("cannot listen on {listen}; another address is given with --listen ADDRESS:PORT"))?;
    let address = listener.local_addr().context("the listener has no address")?;
    plugin_options.listeners.push(address);

    let (tasks, store_tasks) = (TaskGroup::new(), TaskGroup::new());
    let gateway = Gateway::starting(config.server.clone(), "the broker is being opened".into());
    spawn_http(listener, gateway.clone(), &config, &tasks);
    let (unwritten_lines, stop) = (log.unwritten_lines().clone(), tasks.stop_token().clone());
    tasks.spawn_critical("log", async move {
        unwritten_lines.report(stop).await;
        Ok(())
    });

    let started = tokio::select! {
        started = start(&config, plugin_options, first_key, &tasks, &store_tasks) => Some(started),
        name = signals.next() => {
            tracing::info!("{name} received before the broker was open: stopping");
            None
        }
        () = tasks.stop_token().cancelled() => None,
    };
    let Some(Ok(RunningServer { broker, keys, made_key, plugins, pauses, worker })) = started else {
        for tasks in [&tasks, &store_tasks] {
            tasks.stop_token().cancel();
        }
        // No event was accepted, so only answers in progress are awaited.
        let _ = tokio::time::timeout(ABORT_TIMEOUT, tasks.ended()).await;
        return match (started, tasks.failure()) {
            (Some(Err(error)), _) => Err(error),
            (_, Some(failure)) => Err(failure.into()),
            _ => Ok(()),
        };
    };
    gateway.open(ApiState {
        event_log: broker.clone(),
        consumers: broker.clone(),
        plugin_state: broker.clone(),
        audit: broker.clone(),
        plugins: Arc::new(RegistryControl {
            registry: plugins.clone(),
            consumers: broker.clone(),
            started: Instant::now(),
        }),
        keys,
        pauses,
        options: config.server.clone(),
        memory: gateway.memory().clone(),
        stopping: tasks.stop_token().clone(),
        unwritten_lines: log.unwritten_lines().clone(),
    });
    announce(&describe_broker(&config, broker.as_ref()));
    announce(&format!("listening on http://{address}"));
    if let Some(token) = made_key {
        announce(&format!("key {} has all scopes and is shown only now: others need a key here", token.expose()));
    }

    let mut changes = plugins.changes();
    let mut reporter = StartupReporter::default();
    let served = async {
        while !reporter.is_complete() {
            changes.borrow_and_update();
            reporter.next_facts(&config, &plugins).iter().for_each(|fact| announce(fact));
            if !reporter.is_complete() && changes.changed().await.is_err() {
                break;
            }
        }
        tasks.stop_token().cancelled().await;
    };
    tokio::select! {
        name = signals.next() => {
            tracing::info!("{name} received: stopping; another signal after a second stops at once");
            tasks.stop_token().cancel();
        }
        () = served => {}
    }
    drop(plugins);
    let ended = async {
        tokio::join!(worker.stop(), tasks.ended());
        if !close_broker(broker.as_ref()).await {
            tracing::warn!("the broker did not close in time; other hosts forget this consumer when its lease ends");
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

fn spawn_http(listener: tokio::net::TcpListener, gateway: Gateway, config: &Config, tasks: &TaskGroup) {
    let (options, stop, connections) = (config.server.clone(), tasks.stop_token().clone(), tasks.clone());
    tasks.spawn_critical("http", async move {
        api::serve(listener, gateway, options, stop, &connections).await;
        Ok(())
    });
}

/// Opens the broker and starts the worker. The plugins load in a task of their own.
async fn start(
    config: &Config,
    plugin_options: RegistryOptions,
    first_key: FirstKey,
    tasks: &TaskGroup,
    store_tasks: &TaskGroup,
) -> Result<RunningServer, Error> {
    let broker = open_broker(config, store_tasks).await?;
    let (keys, makes_key) = open_keys(config, &broker, first_key).await?;
    let (current_keys, stop) = (keys.clone(), tasks.stop_token().clone());
    tasks.spawn_critical("keys", async move {
        current_keys.keep_current(stop).await;
        Ok(())
    });
    let pauses = Arc::new(PauseBoard::new(broker.clone()));
    let (current_pauses, stop) = (pauses.clone(), tasks.stop_token().clone());
    tasks.spawn_critical("pauses", async move {
        current_pauses.keep_current(stop).await;
        Ok(())
    });
    let plugins = PluginRegistry::prepare(plugin_options).await.map_err(|error| Error::Refused(error.to_string()))?;
    let (store_ended, stop) = (store_tasks.stop_token().clone(), tasks.stop_token().clone());
    let store_failure = store_tasks.clone();
    tasks.spawn_critical("store", async move {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = store_ended.cancelled() => store_failure.failure().map_or(Ok(()), Err),
        }
    });
    let worker_options = WorkerOptions { host_concurrency: plugins.concurrency(), ..config.worker.clone() };
    let worker = Worker::start(broker.clone(), plugins.clone(), pauses.clone(), worker_options, tasks)
        .context("the worker cannot start")?;
    let (watched, stop) = (plugins.clone(), tasks.stop_token().clone());
    tasks.spawn_critical("plugins", async move {
        // A stop drops the loads in progress, which ends their compilers as well.
        stop.run_until_cancelled(watched.load_all()).await;
        watched.watch(stop).await;
        Ok(())
    });
    // Comes last: nobody sees the key of a start that fails.
    let made_key = if makes_key { Some(make_first_key(&broker, &keys).await?) } else { None };
    Ok(RunningServer { broker, keys, made_key, plugins, pauses, worker })
}

/// Raises the limit on open files to the hard limit, because each connection takes a file. The soft limit is often 1,024, for
/// programs that call `select`. If that fails, the limit stays and a warning is logged.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        let shown = current.map_or_else(|| "unlimited".to_owned(), |current| current.to_string());
        tracing::warn!("the limit on open files stays at {shown} and bounds the connections: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let lower = before.maximum.map_or(1 << 20, |maximum| maximum - 1);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), ..before }).unwrap();
        raise_file_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
