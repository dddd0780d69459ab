//! A server from its start to its end.
//!
//! Start: it listens first and is alive; then the broker is opened, and events are accepted; the plugins are loaded behind
//! that, and each serves as soon as it is ready. What cannot be served with ends the start. Stop (G10): no more requests, no
//! more deliveries; attempts end or are handed back; the broker's own tasks end last, since settles need them. A stop works
//! at every moment of the start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::api::{self, ApiState, Gateway};
use crate::broker::Broker;
use crate::config::Config;
use crate::plugin::{self, PluginRegistry};
use crate::shutdown::{StopSignals, TaskGroup};
use crate::telemetry::LogGuard;
use crate::worker::{self, Worker};

use super::{Error, GOODBYE, RegistryControl, StartupFact, descriptors, facts, open_broker, plugin_options};

/// A server that accepts and handles events.
struct RunningServer {
    broker: Arc<dyn Broker>,
    plugins: Arc<PluginRegistry>,
    worker: Worker,
}

/// Serves until it is told to stop by SIGTERM, SIGINT or SIGHUP, or until a part without which it makes no sense fails. The
/// log ends with it. The broker may still be being opened on a thread of the runtime when a stop ends the start; that
/// thread is not to be waited for, and nothing is lost with it.
///
/// # Errors
/// What it needs is not there, or something has failed. A second signal ends at once, as an error.
pub async fn run(config: Config, log: LogGuard, mut announce: impl FnMut(&StartupFact)) -> Result<(), Error> {
    // First of all: a stop is heard from here on.
    let mut signals = StopSignals::listen().context("cannot listen for signals")?;
    descriptors::raise_limit();
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
    let entrance = Gateway::starting(config.server.clone(), "the broker is being opened".into());
    let (server, stop, connections) = (config.server.clone(), tasks.stop_token().clone(), tasks.clone());
    let doors = entrance.clone();
    tasks.spawn_critical("http", async move { api::serve(listener, doors, server, stop, &connections).await });
    let (unwritten, stop) = (log.unwritten().clone(), tasks.stop_token().clone());
    tasks.spawn_critical("log", async move {
        unwritten.tell(stop).await;
        Ok(())
    });

    let started = tokio::select! {
        started = start(&config, plugin_options, &tasks, &store_tasks) => Some(started),
        name = signals.next() => {
            tracing::info!("{name} received before the broker was open: stopping");
            None
        }
        () = tasks.stop_token().cancelled() => None,
    };
    let Some(Ok(RunningServer { broker, plugins, worker })) = started else {
        for tasks in [&tasks, &store_tasks] {
            tasks.stop_token().cancel();
        }
        // Nothing was accepted, so that there is nothing to wait for but answers under way.
        let _ = tokio::time::timeout(GOODBYE, tasks.ended()).await;
        return match (started, tasks.failure()) {
            (Some(Err(error)), _) => Err(error),
            (_, Some(failure)) => Err(failure.into()),
            _ => Ok(()),
        };
    };
    entrance.open(ApiState {
        event_log: broker.clone(),
        consumers: broker.clone(),
        plugin_state: broker.clone(),
        routes: Arc::new(RegistryControl {
            registry: plugins.clone(),
            consumers: broker.clone(),
            started: Instant::now(),
        }),
        options: config.server.clone(),
        memory: entrance.memory().clone(),
        draining: tasks.stop_token().clone(),
        unwritten: log.unwritten().clone(),
    });
    announce(&facts::broker(&config, broker.as_ref()));
    announce(&StartupFact(format!("listening on http://{address}")));

    let mut changes = plugins.changes();
    let mut plugin_facts = facts::StartupReporter::default();
    let served = async {
        while !plugin_facts.is_complete() {
            changes.borrow_and_update();
            plugin_facts.next(&config, &plugins).iter().for_each(&mut announce);
            if !plugin_facts.is_complete() && changes.changed().await.is_err() {
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

/// Opens the broker and sets up what handles events. Plugins are loaded in a task of their own.
async fn start(
    config: &Config,
    plugin_options: plugin::RegistryOptions,
    tasks: &TaskGroup,
    store_tasks: &TaskGroup,
) -> Result<RunningServer, Error> {
    let broker = open_broker(config, store_tasks).await?;
    let plugins = PluginRegistry::prepare(plugin_options).await.map_err(|error| Error::Refused(error.to_string()))?;
    let (store_ended, stop) = (store_tasks.stop_token().clone(), tasks.stop_token().clone());
    let store_failure = store_tasks.clone();
    tasks.spawn_critical("store", async move {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = store_ended.cancelled() => store_failure.failure().map_or(Ok(()), Err),
        }
    });
    let worker_options = worker::WorkerOptions {
        concurrency: config.worker.concurrency,
        host_concurrency: plugins.concurrency(),
        lease: Duration::from_millis(config.worker.lease_ms),
        drain: Duration::from_millis(config.worker.drain_ms),
        policies: config.worker.policies.clone(),
        max_waiting: config.broker.max_waiting,
        max_depth: config.worker.max_depth,
    };
    let worker =
        Worker::start(broker.clone(), plugins.clone(), worker_options, tasks).context("the worker cannot start")?;
    let (watched, stop) = (plugins.clone(), tasks.stop_token().clone());
    tasks.spawn_critical("plugins", async move {
        // Dropping what is being loaded ends its compilers, too.
        stop.run_until_cancelled(watched.load_all()).await;
        watched.watch(stop).await;
        Ok(())
    });
    Ok(RunningServer { broker, plugins, worker })
}
