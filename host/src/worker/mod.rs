//! Takes deliveries from the broker, has plugins handle them, and settles what came of it.
//!
//! Four loops, each a task: [`dispatch`](self) claims for free slots, and a little ahead; `recover` takes over what dead
//! consumers left, one at a time; `upkeep` promotes what is due and keeps house; `adopt` puts events back to work whose
//! plugin has come. Beside them a thread renews leases and a task forms batches of settles.
//!
//! The worker knows no broker but the trait, and never looks into a component.

mod adopt;
mod ahead;
mod attempt;
mod dispatch;
mod leases;
mod recover;
mod settle;
mod slots;
mod state;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Delivery, Lane, Settled};
use crate::event::Policies;
use crate::plugin::Registry;
use crate::shutdown::Tasks;

use attempt::{Handler, returned};

pub use attempt::lane_of;
use leases::{Held, Hold, Keeper};
use settle::Settler;
use state::Reads;

/// How the worker works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Attempts of one plugin that run side by side on this host, unless the plugin's settings say otherwise.
    pub concurrency: usize,
    /// The most attempts that run side by side on this host, of all plugins together. See `slots` for the exception.
    pub host_concurrency: usize,
    /// How long a delivery belongs to this consumer without being renewed.
    pub lease: Duration,
    /// How long attempts under way may take to end when the host stops.
    pub drain: Duration,
    /// What happens to events that no plugin handles.
    pub policies: Policies,
}

impl Options {
    /// The host's limit for a limit per plugin: enough for many plugins, bounded in memory.
    pub fn host_concurrency_for(concurrency: usize) -> usize {
        concurrency.saturating_mul(8).max(64)
    }
}

/// A worker that runs. It works until it is stopped.
pub struct Worker {
    shared: Arc<Shared>,
    tasks: Tasks,
    keeper: Keeper,
}

/// What the loops share.
struct Shared {
    broker: Arc<dyn Broker>,
    plugins: Arc<Registry>,
    handler: Handler,
    settler: Settler,
    held: Held,
    options: Options,
    /// No delivery is taken any more.
    stop: CancellationToken,
    /// Attempts under way are to be given up.
    give_up: CancellationToken,
    /// A slot came free.
    freed: Notify,
}

impl Worker {
    /// Starts the worker. If one of its loops fails, `tasks` stops the program.
    ///
    /// # Errors
    /// The thread that renews leases could not be made.
    pub fn start(
        broker: Arc<dyn Broker>,
        plugins: Arc<Registry>,
        options: Options,
        tasks: &Tasks,
    ) -> std::io::Result<Self> {
        let held = Held::default();
        let keeper = Keeper::start(held.clone(), broker.leases(), options.lease)?;
        let own_tasks = Tasks::new();
        let handler = Handler {
            plugins: plugins.clone(),
            policies: options.policies.clone(),
            state: Arc::new(Reads::start(broker.clone(), &own_tasks)),
            consumer: broker.consumer().to_owned(),
        };
        let shared = Arc::new(Shared {
            settler: Settler::start(broker.clone(), &own_tasks),
            broker,
            plugins,
            handler,
            held,
            options,
            stop: own_tasks.stop_token().clone(),
            give_up: CancellationToken::new(),
            freed: Notify::new(),
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
        own_tasks.spawn_critical("claim", dispatch::run(shared.clone(), own_tasks.clone()));
        own_tasks.spawn_critical("recover", recover::run(shared.clone()));
        own_tasks.spawn_critical("promote", upkeep::promote(shared.clone()));
        own_tasks.spawn_critical("maintain", upkeep::maintain(shared.clone()));
        own_tasks.spawn_critical("adopt", adopt::run(shared.clone()));
        Ok(Self { shared, tasks: own_tasks, keeper })
    }

    /// Stops as G10 says: takes nothing more, lets attempts end within the drain time, hands the rest back without
    /// burning an attempt. Dropping the future stops at once; what was under way is then recovered after its lease.
    pub async fn stop(self) {
        let Self { shared, tasks, keeper } = self;
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
            ended.await;
        }
        // Last, so that leases hold until everything is settled.
        drop(keeper);
    }
}

impl Shared {
    /// Handles a delivery to its settle; `handled` is called when the handler is done and its slot may be used again.
    /// Ends early when the lease is lost, since nothing would come of it.
    async fn work(&self, delivery: Delivery, hold: Hold, handled: impl FnOnce() + Send) {
        let lane = delivery.receipt.lane.clone();
        let mut handled = Some(handled);
        let attempt = async {
            loop {
                let settle = tokio::select! {
                    settle = self.handler.handle(delivery.clone()) => settle,
                    () = self.give_up.cancelled() => returned(delivery.clone(), lane.clone()),
                };
                // What saw state may have to be handled again, in its slot.
                if settle.state.is_none()
                    && let Some(handled) = handled.take()
                {
                    handled();
                    self.freed.notify_one();
                }
                match self.settle(settle).await {
                    Some(Settled::Conflict) => {
                        tracing::debug!(event.id = %delivery.receipt.event_id, "its state changed meanwhile: handled again");
                    }
                    settled => return settled,
                }
            }
        };
        tokio::select! {
            settled = attempt => if settled == Some(Settled::Lost) {
                tracing::warn!(event.id = %delivery.receipt.event_id, "outcome dropped: the delivery passed to another consumer");
            },
            () = hold.lost().cancelled() => {}
        }
    }

    /// Settles for as long as it takes, or until the store was away for a while after everything was to be given up.
    async fn settle(&self, settle: crate::broker::Settle) -> Option<Settled> {
        /// Time for the last settles of a host that stops.
        const LAST_SETTLES: Duration = Duration::from_secs(3);
        let patience = async {
            self.give_up.cancelled().await;
            tokio::time::sleep(LAST_SETTLES).await;
        };
        tokio::select! {
            settled = self.settler.settle_for_sure(settle) => Some(settled),
            () = patience => None,
        }
    }

    /// The lanes to claim from, each with its limit: those of the plugins here, those that others made, and the one of
    /// events that no plugin handles.
    fn lanes(&self) -> Vec<(Lane, usize)> {
        let default = self.options.concurrency;
        let mut lanes: Vec<(Lane, usize)> = Vec::new();
        for plugin in self.plugins.active() {
            if let Ok(lane) = plugin.name().parse() {
                lanes.push((lane, plugin.concurrency().unwrap_or(default)));
            }
        }
        for lane in self.broker.lanes().into_iter().chain([Lane::unrouted()]) {
            if !lanes.iter().any(|(known, _)| *known == lane) {
                lanes.push((lane, default));
            }
        }
        lanes
    }
}
