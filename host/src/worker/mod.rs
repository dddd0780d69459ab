//! Claims deliveries from the broker, has plugins handle them, and settles the outcomes.
//!
//! Each loop is a task:
//! - [`dispatcher`] claims deliveries for free slots, and a few ahead;
//! - [`upkeep`] promotes due events, takes over the deliveries of dead consumers, applies lane limits and maintains the
//!   store, each in a loop of its own;
//! - [`auto_replay`] replays events that failed for want of a plugin;
//! - [`coverage`] announces which types this host handles.
//!
//! Beside them [`leases`] renews leases on a thread of its own, and [`settler`] sends settles in batches.
//!
//! The worker knows the broker only through its traits and never looks into a component.

mod auto_replay;
mod backlog;
mod backoff;
mod coverage;
mod deferrals;
mod dispatcher;
mod handler;
mod handler_pace;
mod history_limit;
mod lane_pauses;
mod leases;
mod options;
mod plugin_state;
mod ready_queue;
mod settler;
mod shortened;
mod slots;
mod upkeep;
mod worker_state;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::backlog::BacklogLimit;
use self::coverage::HostCoverage;
use self::handler::DeliveryHandler;
use self::history_limit::HistoryLimit;
use self::leases::{LeaseKeeper, LeasedDeliveries};
use self::plugin_state::StateReads;
use self::ready_queue::ReadyQueue;
use self::settler::SettleQueue;
use self::worker_state::WorkerState;
use crate::broker::{Broker, PauseBoard};
use crate::plugin::PluginRegistry;
use crate::shutdown::TaskGroup;

pub use self::coverage::lane_of;
pub use self::options::WorkerOptions;

/// How long a stopping host waits for its last settles.
const LAST_SETTLES: Duration = Duration::from_secs(3);

/// A running worker. It works until [`Worker::stop`].
pub struct Worker {
    shared: Arc<WorkerState>,
    tasks: TaskGroup,
    /// Cancelled when open settles must be abandoned.
    too_late: CancellationToken,
    keeper: LeaseKeeper,
}

impl Worker {
    /// Starts the worker. If one of its loops fails, `tasks` stops the program.
    ///
    /// # Errors
    /// The thread that renews leases could not be started.
    pub fn start(
        broker: Arc<dyn Broker>,
        plugins: Arc<PluginRegistry>,
        pauses: Arc<PauseBoard>,
        options: WorkerOptions,
        tasks: &TaskGroup,
    ) -> std::io::Result<Self> {
        let leased = LeasedDeliveries::default();
        let keeper = LeaseKeeper::start(leased.clone(), broker.lease_renewal(), options.lease)?;
        let own_tasks = TaskGroup::new();
        let handler_appeared = Arc::new(Notify::new());
        let coverage =
            Arc::new(HostCoverage::start(plugins.clone(), broker.clone(), handler_appeared.clone(), &own_tasks));
        let backlog = Arc::new(BacklogLimit::new(options.max_waiting));
        let history = Arc::new(HistoryLimit::default());
        let handler = DeliveryHandler {
            plugins: plugins.clone(),
            coverage: coverage.clone(),
            pauses: pauses.clone(),
            policies: options.policies.clone(),
            state: Arc::new(StateReads::start(broker.clone(), &own_tasks)),
            consumer: broker.consumer().into(),
            backlog: backlog.clone(),
            history: history.clone(),
            deferrals: Mutex::default(),
            shortened: Mutex::default(),
            max_depth: options.max_depth,
        };
        let too_late = CancellationToken::new();
        let shared = Arc::new(WorkerState {
            queue: Arc::new(ReadyQueue::new(options.host_concurrency, plugins.threads())),
            settler: SettleQueue::start(
                broker.clone(),
                coverage.clone(),
                backlog,
                history,
                too_late.clone(),
                &own_tasks,
            ),
            event_log: broker.clone(),
            work_queue: broker,
            plugins,
            handler,
            coverage,
            pauses,
            handler_appeared,
            leased,
            options,
            stop: own_tasks.stop_token().clone(),
            give_up: CancellationToken::new(),
        });
        let failed = tasks.stop_token().clone();
        let loops = own_tasks.clone();
        tasks.spawn_critical("worker", async move {
            tokio::select! {
                () = loops.stop_token().cancelled() => {}
                () = failed.cancelled() => {}
            }
            loops.failure().map_or(Ok(()), Err)
        });
        own_tasks.spawn_critical("announce", coverage::announce(shared.coverage.clone(), shared.stop.clone()));
        own_tasks.spawn_critical("claim", dispatcher::run(shared.clone(), own_tasks.clone()));
        own_tasks.spawn_critical("recover", upkeep::recover(shared.clone(), own_tasks.clone()));
        own_tasks.spawn_critical("promote", upkeep::promote(shared.clone()));
        own_tasks.spawn_critical("limit", upkeep::limit_lanes(shared.clone()));
        own_tasks.spawn_critical("maintain", upkeep::maintain(shared.clone()));
        own_tasks.spawn_critical("replay", auto_replay::run(shared.clone()));
        Ok(Self { shared, tasks: own_tasks, too_late, keeper })
    }

    /// Stops as G10 of the contract says. The worker claims nothing more and lets attempts end within the drain time. It
    /// returns the remaining deliveries without counting an attempt.
    ///
    /// Dropping the future stops at once. Another consumer then recovers the open deliveries after their leases end.
    pub async fn stop(self) {
        let Self { shared, tasks, too_late, keeper } = self;
        let drain = shared.options.drain;
        shared.stop.cancel();
        let give_up = shared.give_up.clone();
        drop(shared);
        tokio::pin! {
            let ended = tasks.ended();
        }
        if tokio::time::timeout(drain, &mut ended).await.is_err() {
            tracing::warn!("attempts still running after {} ms are handed back", drain.as_millis());
            give_up.cancel();
            if tokio::time::timeout(LAST_SETTLES, &mut ended).await.is_err() {
                too_late.cancel();
                ended.await;
            }
        }
        // Dropped last: leases must hold until everything is settled.
        drop(keeper);
    }
}
