//! Which types this host handles, and which types other live hosts handle.
//!
//! Hosts that share a store can differ: during a rolling deployment, or when one of them cannot load a plugin. A host does
//! not claim from lanes that only another host serves. If it holds such an event anyway, it returns the event to the lane
//! of that host without an attempt. If no host handles the type, the policy for unhandled events applies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::broker::{ConsumerCoverage, ConsumerDirectory, Lane, PeerCoverage};
use crate::event::EventType;
use crate::plugin::{Plugin, PluginRegistry};
use crate::shutdown::TaskGroup;

/// How many attempts may wait for a refresh: more than a host runs. One refresh answers all that wait.
const MAX_QUESTIONS: usize = 4_096;
/// How long a host counts as starting at most. Until then other hosts let unhandled events wait for it.
const MAX_START: Duration = Duration::from_secs(120);

/// The lane of a type. It is the first of these:
/// - the lane of the plugin that handles the type on this host;
/// - the lane of the plugin that is expected to handle it, while the host starts;
/// - the lane in which another live host handles it;
/// - the lane for types without a plugin.
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

/// Whether a host may claim from a lane that belongs to none of its plugins. It may not while it `is_preparing`, that is
/// while it loads plugins that have no active version yet: the events may be theirs.
fn may_claim(lane: &Lane, is_preparing: bool, elsewhere: &PeerCoverage) -> bool {
    !is_preparing && !elsewhere.served().has_lane(lane)
}

/// Where to route an event that no plugin of this host handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UnhandledRoute {
    /// To the lane in which another host handles it.
    Lane(Lane),
    /// Back to its lane: a host may handle it that has not said so yet.
    Unclear,
    /// Nowhere: no host handles it.
    NoHandler,
}

fn route_unhandled(event_type: &EventType, is_preparing: bool, elsewhere: &PeerCoverage) -> UnhandledRoute {
    match elsewhere.lane_of(event_type) {
        Some(lane) => UnhandledRoute::Lane(lane.clone()),
        None if is_preparing || elsewhere.some_are_silent() => UnhandledRoute::Unclear,
        None => UnhandledRoute::NoHandler,
    }
}

/// Which types this host handles, and which types other live hosts handle.
pub(super) struct HostCoverage {
    plugins: Arc<PluginRegistry>,
    consumers: Arc<dyn ConsumerDirectory>,
    /// Asks for a refresh on the worker's own runtime. Guests run on runtimes without sockets.
    questions: mpsc::Sender<oneshot::Sender<()>>,
    /// Whether an event failed on this host for want of a plugin.
    has_unhandled: AtomicBool,
    /// Notified when such events may be replayed.
    handler_appeared: Arc<Notify>,
}

impl HostCoverage {
    /// Starts the task that asks the store. The task ends when this value is dropped.
    pub(super) fn start(
        plugins: Arc<PluginRegistry>,
        consumers: Arc<dyn ConsumerDirectory>,
        handler_appeared: Arc<Notify>,
        tasks: &TaskGroup,
    ) -> Self {
        let (questions, mut waiting) = mpsc::channel::<oneshot::Sender<()>>(MAX_QUESTIONS);
        let directory = consumers.clone();
        tasks.spawn(async move {
            let mut answers = Vec::new();
            // A refresh only answers questions that were asked before it began.
            while waiting.recv_many(&mut answers, MAX_QUESTIONS).await > 0 {
                if let Err(error) = directory.refresh_peer_coverage().await {
                    tracing::debug!("could not refresh what other hosts serve: {error}");
                }
                for answer in answers.drain(..) {
                    // The asking attempt may have been cancelled meanwhile.
                    let _ = answer.send(());
                }
            }
        });
        Self { plugins, consumers, questions, has_unhandled: AtomicBool::new(false), handler_appeared }
    }

    /// The lane of a type; see [`lane_of`].
    pub(super) fn lane(&self, event_type: &EventType) -> Lane {
        lane_of(&self.plugins, &*self.consumers, event_type)
    }

    /// Whether a plugin handles this type, here or on another host. Plugins that are only expected do not count: they may
    /// fail to load.
    pub(super) fn is_handled(&self, event_type: &EventType) -> bool {
        self.plugins.route(event_type).is_some() || self.consumers.peer_coverage().lane_of(event_type).is_some()
    }

    /// Whether this host may claim from a lane that belongs to none of its plugins.
    pub(super) fn may_claim(&self, lane: &Lane) -> bool {
        may_claim(lane, self.plugins.is_preparing(), &self.consumers.peer_coverage())
    }

    /// Where to route an event that no plugin of this host handles. Asks the store before it answers that no host handles
    /// the type.
    pub(super) async fn route_unhandled(&self, event_type: &EventType) -> UnhandledRoute {
        let known = || route_unhandled(event_type, self.plugins.is_preparing(), &self.consumers.peer_coverage());
        if known() == UnhandledRoute::NoHandler {
            self.refresh().await;
        }
        known()
    }

    async fn refresh(&self) {
        let (answer, answered) = oneshot::channel();
        if self.questions.send(answer).await.is_ok() {
            // There is no answer only when the worker has ended.
            let _ = answered.await;
        }
    }

    /// Notes that events of these types failed without a handler. A handler may have appeared meanwhile.
    pub(super) fn note_unhandled(&self, types: &[EventType]) {
        if types.is_empty() {
            return;
        }
        self.has_unhandled.store(true, Ordering::SeqCst);
        if types.iter().any(|event_type| self.is_handled(event_type)) {
            self.handler_appeared.notify_one();
        }
    }

    /// Logs how the coverage of other hosts changed, and returns it. Wakes the automatic replay if it grew.
    fn note_peer_change(&self, before: &PeerCoverage) -> Arc<PeerCoverage> {
        let now = self.consumers.peer_coverage();
        let own: Vec<Arc<Plugin>> = self.plugins.serving_plugins();
        let is_foreign = |lane: &Lane| !own.iter().any(|plugin| plugin.name() == lane.as_str());
        for (lane, patterns) in now.served().lanes().filter(|(lane, _)| is_foreign(lane)) {
            if !before.served().has_lane(lane) {
                let types: Vec<String> = patterns.iter().take(10).map(ToString::to_string).collect();
                tracing::info!(
                    plugin.id = %lane,
                    "a plugin that another host serves and this one does not: events of {} are left to it",
                    types.join(", ")
                );
            }
        }
        for (lane, _) in before.served().lanes().filter(|(lane, _)| is_foreign(lane) && !now.served().has_lane(lane)) {
            tracing::info!(plugin.id = %lane, "no other host serves this plugin any more");
        }
        if now.has_more_than(before) && self.has_unhandled.swap(false, Ordering::SeqCst) {
            self.handler_appeared.notify_one();
        }
        now
    }
}

/// Announces to other hosts what this one serves, at the start and at each change, until `stop` is cancelled.
pub(super) async fn announce(coverage: Arc<HostCoverage>, stop: CancellationToken) -> anyhow::Result<()> {
    let (mut changes, started) = (coverage.plugins.changes(), Instant::now());
    while !stop.is_cancelled() {
        changes.borrow_and_update();
        let is_starting = coverage.plugins.is_starting() && started.elapsed() < MAX_START;
        let lanes = coverage.plugins.serving_plugins().into_iter();
        let lanes = lanes.filter_map(|plugin| Some((lane_named(plugin.name())?, plugin.patterns().to_vec())));
        if let Err(error) = coverage.consumers.announce_coverage(ConsumerCoverage::new(lanes, is_starting)).await {
            // The next round of maintenance announces it again.
            tracing::debug!("could not announce what this host serves: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            changed = changes.changed() => changed?,
            () = tokio::time::sleep(MAX_START.saturating_sub(started.elapsed())), if is_starting => {}
        }
    }
    Ok(())
}

/// Notices changes in what other hosts serve.
#[derive(Default)]
pub(super) struct PeerWatch(Arc<PeerCoverage>);

impl PeerWatch {
    /// Acts on the changes since the last look. Does nothing while this host starts, because what it serves is not known.
    pub(super) fn look(&mut self, coverage: &HostCoverage) {
        if !coverage.plugins.is_starting() && *coverage.consumers.peer_coverage() != *self.0 {
            self.0 = coverage.note_peer_change(&self.0);
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
    fn a_host_claims_from_foreign_lanes_only_if_no_other_host_serves_them() {
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
    fn an_unhandled_event_goes_to_the_host_that_handles_it_and_fails_only_if_certainly_none_does() {
        let of = |event_type: &str, is_preparing, some_are_silent| {
            route_unhandled(&event_type.parse().unwrap(), is_preparing, &elsewhere(some_are_silent))
        };
        for (is_preparing, some_are_silent) in [(false, false), (true, false), (false, true)] {
            assert_eq!(of("order.paid", is_preparing, some_are_silent), UnhandledRoute::Lane(lane("there")));
        }
        assert_eq!(of("refund", false, false), UnhandledRoute::NoHandler);
        assert_eq!(of("refund", true, false), UnhandledRoute::Unclear, "a plugin is coming");
        assert_eq!(of("refund", false, true), UnhandledRoute::Unclear, "a host may handle it that does not say");
    }
}
