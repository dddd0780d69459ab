//! Takes deliveries from the broker, has plugins handle them, and settles what came of it.
//!
//! Four loops, each a task: [`dispatch`](self) claims for free slots, and a little ahead; `recover` takes over what dead
//! consumers left, one at a time; `upkeep` promotes what is due and keeps house; `adopt` puts events back to work whose
//! plugin has come. Beside them a thread renews leases and a task forms batches of settles.
//!
//! The worker knows no broker but the traits, and never looks into a component.

mod adopt;
mod ahead;
mod attempt;
mod crowd;
mod dispatch;
mod leases;
mod queue;
mod reach;
mod recover;
mod settle;
mod slots;
mod state;
mod strays;
mod upkeep;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Delivery, EventLog, Lane, WorkQueue};
use crate::event::{RetryPolicies, Settlement};
use crate::plugin::{CpuMeter, Plugin, PluginRegistry};
use crate::shutdown::TaskGroup;

use attempt::{DeliveryHandler, returned};
use crowd::BacklogLimit;

use leases::{HeldDeliveries, LeaseKeeper};
use queue::{DeliveryGuard, ReadyQueue, SlotGuard};
use reach::HostReach;
pub use reach::lane_of;
use settle::{SettleConclusion, SettleItem, SettleQueue};
use state::StateReads;

/// Time for the last settles of a host that stops.
const LAST_SETTLES: Duration = Duration::from_secs(3);

/// How the worker works.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Attempts of one plugin that run side by side on this host, unless the plugin's settings say otherwise.
    pub concurrency: usize,
    /// The most attempts that run side by side on this host, of all plugins together. See `slots` for the exception.
    pub host_concurrency: usize,
    /// How long a delivery belongs to this consumer without being renewed.
    pub lease: Duration,
    /// How long attempts under way may take to end when the host stops.
    pub drain: Duration,
    /// What happens to events that no plugin handles.
    pub policies: RetryPolicies,
    /// The most events that may wait before clients are refused.
    pub max_waiting: u64,
    /// The greatest length of a chain of causes: an attempt that publishes beyond it fails.
    pub max_depth: u32,
}

impl WorkerOptions {
    /// The host's limit for a limit per plugin: enough for many plugins, and no more than it ever holds deliveries.
    pub fn host_concurrency_for(concurrency: usize) -> usize {
        concurrency.saturating_mul(8).clamp(64, queue::MAX_HELD)
    }
}

/// A worker that runs. It works until it is stopped.
pub struct Worker {
    shared: Arc<WorkerState>,
    tasks: TaskGroup,
    /// What is not settled yet is given up.
    too_late: CancellationToken,
    keeper: LeaseKeeper,
}

/// What the loops share.
struct WorkerState {
    event_log: Arc<dyn EventLog>,
    work_queue: Arc<dyn WorkQueue>,
    plugins: Arc<PluginRegistry>,
    handler: DeliveryHandler,
    settler: SettleQueue,
    reach: Arc<HostReach>,
    /// Events failed for want of a plugin that is there.
    missed: Arc<Notify>,
    held: HeldDeliveries,
    queue: Arc<ReadyQueue>,
    options: WorkerOptions,
    /// No delivery is taken any more.
    stop: CancellationToken,
    /// Attempts under way are to be given up.
    give_up: CancellationToken,
}

impl Worker {
    /// Starts the worker. If one of its loops fails, `tasks` stops the program.
    ///
    /// # Errors
    /// The thread that renews leases could not be made.
    pub fn start(
        broker: Arc<dyn Broker>,
        plugins: Arc<PluginRegistry>,
        options: WorkerOptions,
        tasks: &TaskGroup,
    ) -> std::io::Result<Self> {
        let held = HeldDeliveries::default();
        let keeper = LeaseKeeper::start(held.clone(), broker.lease_renewal(), options.lease)?;
        let own_tasks = TaskGroup::new();
        let missed = Arc::new(Notify::new());
        let reach = Arc::new(HostReach::start(plugins.clone(), broker.clone(), missed.clone(), &own_tasks));
        let handler = DeliveryHandler {
            plugins: plugins.clone(),
            reach: reach.clone(),
            policies: options.policies.clone(),
            state: Arc::new(StateReads::start(broker.clone(), &own_tasks)),
            consumer: broker.consumer().into(),
            crowd: BacklogLimit::new(options.max_waiting),
            max_depth: options.max_depth,
        };
        let too_late = CancellationToken::new();
        let shared = Arc::new(WorkerState {
            queue: Arc::new(ReadyQueue::new(options.host_concurrency, plugins.threads())),
            settler: SettleQueue::start(broker.clone(), reach.clone(), too_late.clone(), &own_tasks),
            event_log: broker.clone(),
            work_queue: broker,
            plugins,
            handler,
            reach,
            missed,
            held,
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
        own_tasks.spawn_critical("tell", reach::tell(shared.clone()));
        own_tasks.spawn_critical("claim", dispatch::run(shared.clone(), own_tasks.clone()));
        own_tasks.spawn_critical("recover", recover::run(shared.clone(), own_tasks.clone()));
        own_tasks.spawn_critical("promote", upkeep::promote(shared.clone()));
        own_tasks.spawn_critical("limit", upkeep::limit(shared.clone()));
        own_tasks.spawn_critical("maintain", upkeep::maintain(shared.clone()));
        own_tasks.spawn_critical("adopt", adopt::run(shared.clone()));
        Ok(Self { shared, tasks: own_tasks, too_late, keeper })
    }

    /// Stops as G10 says: takes nothing more, lets attempts end within the drain time, hands the rest back without
    /// burning an attempt. Dropping the future stops at once; what was under way is then recovered after its lease.
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
            tracing::warn!("attempts still under way after {} ms are handed back", drain.as_millis());
            give_up.cancel();
            if tokio::time::timeout(LAST_SETTLES, &mut ended).await.is_err() {
                too_late.cancel();
                ended.await;
            }
        }
        // Last, so that leases hold until everything is settled.
        drop(keeper);
    }
}

impl WorkerState {
    /// Handles a delivery and hands on what came of it, on a thread of the guests. Ends early when the lease is lost,
    /// since nothing would come of it.
    async fn work(
        self: Arc<Self>,
        delivery: Delivery,
        mut custody: DeliveryGuard,
        slot: Option<SlotGuard>,
        meter: Arc<CpuMeter>,
    ) {
        let lane = delivery.receipt.lane.clone();
        if delivery.deliveries > 1 {
            // A suspect stays in its lane, also when its plugin is not loaded yet.
            tokio::select! {
                () = self.plugins.routed(&delivery.record.event.event_type) => {}
                () = custody.hold.lost().cancelled() => return,
                () = self.stop.cancelled() => {
                    return self.settler.submit(SettleItem::new(returned(delivery, lane), custody));
                }
            }
        }
        loop {
            let lost = custody.hold.lost().clone();
            let settle = tokio::select! {
                biased;
                settle = self.handler.handle(delivery.clone(), meter.clone()) => settle,
                () = lost.cancelled() => return,
                () = self.give_up.cancelled() => returned(delivery.clone(), lane.clone()),
            };
            if settle.settlement == Settlement::Returned && settle.lane == lane {
                self.queue.found_stray(&lane);
            }
            if settle.state.is_none() {
                return self.settler.submit(SettleItem::new(settle, custody));
            }
            // What saw state may have to be handled again, in its slot.
            let conclusion = tokio::select! {
                conclusion = self.settler.settle(settle, custody) => conclusion,
                () = lost.cancelled() => return,
            };
            let SettleConclusion::Conflict(still) = conclusion else { return drop(slot) };
            tracing::debug!(event.id = %delivery.receipt.event_id, "its state changed meanwhile: handled again");
            custody = still;
        }
    }

    /// How many events of a plugin may wait, of those whose settings say it.
    fn lane_limits(&self) -> BTreeMap<Lane, u64> {
        let limit = |plugin: Arc<Plugin>| Some((plugin.name().parse().ok()?, plugin.max_waiting()?));
        self.plugins.active().into_iter().filter_map(limit).collect()
    }

    /// The lanes to claim from, each with its limit: those of the plugins here, and those that exist in the store and are
    /// nobody else's. During a start, only those of plugins that are loaded. See [`reach`].
    fn lanes(&self) -> HashMap<Lane, usize> {
        let default = self.options.concurrency;
        let mut lanes = HashMap::new();
        for plugin in self.plugins.claimable() {
            lanes.extend(plugin.name().parse().ok().zip(Some(plugin.concurrency().unwrap_or(default))));
        }
        for lane in self.work_queue.lanes().into_iter().chain([Lane::unrouted()]) {
            if !lanes.contains_key(&lane) && self.reach.may_claim(&lane) {
                lanes.insert(lane, default);
            }
        }
        lanes
    }
}
