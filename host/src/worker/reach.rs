//! What this host can handle, and what other living hosts can: who may take what.
//!
//! Hosts that share a store are not alike while a deployment rolls, or where a plugin cannot be loaded on one of them. A
//! host leaves alone what it cannot handle and another one can. What it holds all the same goes to the lane of the one that
//! can, without an attempt. Only where nobody can, the policy for events without a plugin begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::broker::{ConsumerCoverage, ConsumerDirectory, Lane, PeerCoverage};
use crate::event::EventType;
use crate::plugin::{Plugin, PluginRegistry};
use crate::shutdown::TaskGroup;

use super::WorkerState;

/// The most questions that wait for their turn: more than a host has attempts. All that wait are answered at once.
const MAX_QUESTIONS: usize = 4_096;
/// For how long at most a host counts as starting, however long its plugins take: what nobody else handles waits for it.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// The lane of a type: that of the plugin that handles it here or, during a start, is expected to, else that in which
/// another living host does, else that of types without a plugin.
pub fn lane_of(plugins: &PluginRegistry, consumers: &dyn ConsumerDirectory, event_type: &EventType) -> Lane {
    let elsewhere = || consumers.peer_coverage().lane_of(event_type).cloned();
    let expected = || plugins.expected(event_type).and_then(lane_named);
    own_lane(plugins, event_type).or_else(expected).or_else(elsewhere).unwrap_or_else(Lane::unrouted)
}

/// The lane of the plugin that handles a type on this host.
pub(super) fn own_lane(plugins: &PluginRegistry, event_type: &EventType) -> Option<Lane> {
    lane_named(plugins.route(event_type)?.name())
}

fn lane_named(plugin: &str) -> Option<Lane> {
    plugin.parse().ok()
}

/// Whether a host claims from a lane that belongs to no plugin of its own. Not `is_preparing`, while plugins are being
/// loaded here of which no version serves: what waits may be theirs.
fn may_claim(lane: &Lane, is_preparing: bool, elsewhere: &PeerCoverage) -> bool {
    !is_preparing && !elsewhere.served().has_lane(lane)
}

/// Where an event belongs that no plugin of this host handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UnhandledRoute {
    /// In the lane in which another host handles it.
    Of(Lane),
    /// Where it is: somebody may handle it of whom that is not known.
    Unclear,
    /// Nowhere: nobody handles it.
    OfNobody,
}

/// Where a type belongs that no plugin of this host handles.
fn stranger(event_type: &EventType, is_preparing: bool, elsewhere: &PeerCoverage) -> UnhandledRoute {
    match elsewhere.lane_of(event_type) {
        Some(lane) => UnhandledRoute::Of(lane.clone()),
        None if is_preparing || elsewhere.some_are_silent() => UnhandledRoute::Unclear,
        None => UnhandledRoute::OfNobody,
    }
}

/// What this host can handle, and what other living hosts can.
pub(super) struct HostReach {
    plugins: Arc<PluginRegistry>,
    consumers: Arc<dyn ConsumerDirectory>,
    /// Asks the store, on the worker's own runtime: guests run on runtimes without sockets.
    asks: mpsc::Sender<oneshot::Sender<()>>,
    /// Something failed here since nobody handled it.
    has_missed: AtomicBool,
    /// Told when events may be put back to work that failed for want of a plugin.
    missed: Arc<Notify>,
}

impl HostReach {
    /// Starts the task that asks the store. It ends when this is dropped.
    pub(super) fn start(
        plugins: Arc<PluginRegistry>,
        consumers: Arc<dyn ConsumerDirectory>,
        missed: Arc<Notify>,
        tasks: &TaskGroup,
    ) -> Self {
        let (asks, mut waiting) = mpsc::channel::<oneshot::Sender<()>>(MAX_QUESTIONS);
        let asked = consumers.clone();
        tasks.spawn(async move {
            let mut answers = Vec::new();
            // An answer counts only for those who asked before the store was.
            while waiting.recv_many(&mut answers, MAX_QUESTIONS).await > 0 {
                if let Err(error) = asked.refresh_peer_coverage().await {
                    tracing::debug!("could not ask what other hosts serve: {error}");
                }
                for answer in answers.drain(..) {
                    // Whoever asked may have been cancelled meanwhile.
                    let _ = answer.send(());
                }
            }
        });
        Self { plugins, consumers, asks, has_missed: AtomicBool::new(false), missed }
    }

    /// The lane of a type.
    pub(super) fn lane(&self, event_type: &EventType) -> Lane {
        lane_of(&self.plugins, &*self.consumers, event_type)
    }

    /// Whether a plugin handles this type, here or on another host. One that is only expected may turn out not to load.
    pub(super) fn is_handled(&self, event_type: &EventType) -> bool {
        self.plugins.route(event_type).is_some() || self.consumers.peer_coverage().lane_of(event_type).is_some()
    }

    /// Whether this host claims from a lane that belongs to no plugin of its own.
    pub(super) fn may_claim(&self, lane: &Lane) -> bool {
        may_claim(lane, self.plugins.is_preparing(), &self.consumers.peer_coverage())
    }

    /// Where an event belongs that no plugin of this host handles. What is known of other hosts is known anew if the event
    /// would fail by it.
    pub(super) async fn stranger(&self, event_type: &EventType) -> UnhandledRoute {
        let known = || stranger(event_type, self.plugins.is_preparing(), &self.consumers.peer_coverage());
        if known() == UnhandledRoute::OfNobody {
            self.ask().await;
        }
        known()
    }

    async fn ask(&self) {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(answer).await.is_ok() {
            // Nobody answers only when the worker has ended.
            let _ = answered.await;
        }
    }

    /// Events of these types have failed since nobody handled them. Some may have found a host meanwhile.
    pub(super) fn note_missed(&self, types: &[EventType]) {
        if types.is_empty() {
            return;
        }
        self.has_missed.store(true, Ordering::SeqCst);
        if types.iter().any(|event_type| self.is_handled(event_type)) {
            self.missed.notify_one();
        }
    }

    /// Other hosts serve something else than they did. Gives what they serve now.
    fn note_change(&self, before: &PeerCoverage) -> Arc<PeerCoverage> {
        let now = self.consumers.peer_coverage();
        let own: Vec<Arc<Plugin>> = self.plugins.active();
        let is_strange = |lane: &Lane| !own.iter().any(|plugin| plugin.name() == lane.as_str());
        for (lane, patterns) in now.served().lanes().filter(|(lane, _)| is_strange(lane)) {
            if !before.served().has_lane(lane) {
                let types: Vec<String> = patterns.iter().take(10).map(ToString::to_string).collect();
                tracing::info!(
                    plugin.id = %lane,
                    "a plugin that another host serves and this one does not: what waits for {} is left to it",
                    types.join(", ")
                );
            }
        }
        for (lane, _) in before.served().lanes().filter(|(lane, _)| is_strange(lane) && !now.served().has_lane(lane)) {
            tracing::info!(plugin.id = %lane, "no other host serves this plugin any more");
        }
        if now.has_more_than(before) && self.has_missed.swap(false, Ordering::SeqCst) {
            self.missed.notify_one();
        }
        now
    }
}

/// Tells other hosts what this one serves, at the start and whenever that changes, until the worker stops.
pub(super) async fn tell(shared: Arc<WorkerState>) -> anyhow::Result<()> {
    let (mut changes, started) = (shared.plugins.changes(), Instant::now());
    while !shared.stop.is_cancelled() {
        changes.borrow_and_update();
        let is_starting = shared.plugins.is_starting() && started.elapsed() < STARTS_WITHIN;
        let lanes = shared.plugins.active().into_iter();
        let lanes = lanes.filter_map(|plugin| Some((lane_named(plugin.name())?, plugin.patterns().to_vec())));
        if let Err(error) = shared.reach.consumers.announce_coverage(ConsumerCoverage::new(lanes, is_starting)).await {
            // It goes with the next sign of life.
            tracing::debug!("could not tell what this host serves: {error}");
        }
        tokio::select! {
            () = shared.stop.cancelled() => {}
            changed = changes.changed() => changed?,
            () = tokio::time::sleep(STARTS_WITHIN.saturating_sub(started.elapsed())), if is_starting => {}
        }
    }
    Ok(())
}

/// Watches what other hosts serve, until the worker stops. Looks after each round of house-keeping.
#[derive(Default)]
pub(super) struct PeerWatch(Arc<PeerCoverage>);

impl PeerWatch {
    /// Acts on what has changed since the last look. Not during a start: nobody knows yet what this host serves.
    pub(super) fn look(&mut self, reach: &HostReach) {
        if !reach.plugins.is_starting() && *reach.consumers.peer_coverage() != *self.0 {
            self.0 = reach.note_change(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> Lane {
        name.parse().unwrap()
    }

    fn elsewhere(some_are_silent: bool) -> PeerCoverage {
        let served = ConsumerCoverage::new([(lane("there"), vec!["order.*".parse().unwrap()])], false);
        PeerCoverage::combine([&served], some_are_silent)
    }

    #[test]
    fn a_host_claims_from_lanes_that_are_not_its_own_if_nobody_else_serves_them() {
        for (name, is_preparing, claims) in [
            ("there", false, false),
            ("there", true, false),
            ("_", false, true),
            ("_", true, false),
            ("gone", false, true),
            ("gone", true, false),
        ] {
            let found = may_claim(&lane(name), is_preparing, &elsewhere(false));
            assert_eq!(found, claims, "{name}, preparing {is_preparing}");
        }
    }

    #[test]
    fn a_stranger_belongs_to_the_host_that_handles_it_and_to_nobody_only_if_that_is_certain() {
        let of = |event_type: &str, is_preparing, some_are_silent| {
            stranger(&event_type.parse().unwrap(), is_preparing, &elsewhere(some_are_silent))
        };
        for (is_preparing, some_are_silent) in [(false, false), (true, false), (false, true)] {
            assert_eq!(of("order.paid", is_preparing, some_are_silent), UnhandledRoute::Of(lane("there")));
        }
        assert_eq!(of("refund", false, false), UnhandledRoute::OfNobody);
        assert_eq!(of("refund", true, false), UnhandledRoute::Unclear, "a plugin is coming");
        assert_eq!(of("refund", false, true), UnhandledRoute::Unclear, "a host may handle it that does not say");
    }
}
