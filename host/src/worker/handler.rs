//! Handles one delivery: finds the plugin, runs the attempt, decides what follows, and describes the attempt.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::broker::{AppendRequest, Delivery, Lane, PauseBoard, SettleRequest};
use crate::clock;
use crate::event::{
    AttemptDetail, AttemptFailure, AttemptOutcome, AttemptRecord, DeliveryStart, Event, EventRecord, EventType,
    FailureClass, PublishedEvent, RetryPolicies, Settlement, decide_settlement, defer_attempt,
};
use crate::plugin::{AttemptInput, CompletedAttempt, CpuMeter, Plugin, PluginRegistry, StateReader};

use super::backlog::{BacklogLimit, EVENT_BYTES, LaneReservation, attribute_and_data_bytes};
use super::coverage::{HostCoverage, UnhandledRoute, own_lane};
use super::deferrals::DeferralWatch;
use super::history_limit::{HistoryLimit, HistoryReservation};
use super::shortened::{KeptPlace, ShortenedAttempts};

/// How many deliveries in a row may crash their host before the event fails (contract, G7).
pub(super) const CRASH_CAP: u32 = 5;

/// Handles deliveries.
pub(super) struct DeliveryHandler {
    /// Finds the plugin for a type.
    pub(super) plugins: Arc<PluginRegistry>,
    /// Knows which types other hosts handle.
    pub(super) coverage: Arc<HostCoverage>,
    /// Knows which plugins must not be called.
    pub(super) pauses: Arc<PauseBoard>,
    /// The policies for events that no plugin handles.
    pub(super) policies: RetryPolicies,
    /// Reads plugin state for handlers.
    pub(super) state: Arc<dyn StateReader>,
    /// The consumer name in the records of attempts.
    pub(super) consumer: Arc<str>,
    /// Decides whether handlers may publish, and how much of their attempts is kept.
    pub(super) backlog: Arc<BacklogLimit>,
    /// Decides whether the lanes of processed events may begin attempts.
    pub(super) history: Arc<HistoryLimit>,
    /// Notices plugins that cannot go on because of it.
    pub(super) deferrals: Mutex<DeferralWatch>,
    /// Notices plugins whose attempts are kept without their output.
    pub(super) shortened: Mutex<ShortenedAttempts>,
    /// The longest chain of events that cause one another.
    pub(super) max_depth: u32,
}

/// Holds the room for what an attempt adds to the store, until its settle has ended.
#[derive(Debug, Default)]
pub(super) struct AttemptReservations {
    _lanes: Option<LaneReservation>,
    history: Option<HistoryReservation>,
}

impl AttemptReservations {
    /// Whether the attempt adds much to the history.
    pub(super) fn adds_much_history(&self) -> bool {
        self.history.is_some()
    }
}

/// What to do with a delivery.
enum DeliveryDecision {
    Handle(Arc<Plugin>),
    Fail(AttemptFailure),
    Return(Lane),
}

impl DeliveryHandler {
    /// Handles a delivery and returns how to settle it. Never fails: whatever the plugin does has an outcome. Dropping the
    /// future cancels the handler. Keep the reservations until the settle has ended.
    pub(super) async fn handle(
        &self,
        delivery: Delivery,
        meter: Arc<CpuMeter>,
    ) -> (SettleRequest, AttemptReservations) {
        let record = &delivery.record;
        let attempt = delivery.attempt();
        let begin = || (clock::now(), Instant::now());
        let (plugin, completed, (started_at, started)) = match self.next_step(&delivery).await {
            DeliveryDecision::Return(lane) => return (returned(delivery, lane), AttemptReservations::default()),
            DeliveryDecision::Fail(failure) => (None, CompletedAttempt::failed(failure), begin()),
            DeliveryDecision::Handle(plugin) => {
                // Waiting for the sandbox does not count as time of the attempt.
                let permit = plugin.acquire_permit().await;
                let began = begin();
                let attempt = AttemptInput { event: record.event.clone(), attempt };
                let completed = plugin.handle_here(permit, attempt, self.state.clone(), meter).await;
                (Some(plugin), completed, began)
            }
        };
        let duration_ms = started.elapsed().as_micros() as f64 / 1_000.0;
        let policies = plugin.as_ref().map_or(&self.policies, |plugin| &plugin.policies);
        let lane = self.lane(&record.event.event_type);
        let mut outcome = within_depth(completed.outcome, self.max_depth);
        let mut settlement = decide_settlement(&outcome, record.failures, policies, fastrand::f64());
        let reserved = self.reserve(&lane, &outcome);
        let obstacle = reserved.as_ref().err().map(String::as_str);
        self.deferrals.lock().note_attempt(&lane, obstacle, Instant::now());
        if let Some(reason) = obstacle {
            settlement = defer_attempt(reason, record.deferrals, fastrand::f64());
            outcome = AttemptOutcome::Failed(AttemptFailure::new(FailureClass::Retry, reason));
        }
        self.log(&record.event, attempt, duration_ms, plugin.as_deref(), (&outcome, &settlement));

        let (success, failure) = match outcome {
            AttemptOutcome::Ok(success) => (success, None),
            AttemptOutcome::Failed(failure) => (Default::default(), Some(failure)),
        };
        let (name, digest) = plugin.as_ref().map(|plugin| plugin.name_and_digest()).unzip();
        let ended = AttemptRecord {
            attempt,
            replay: record.replays,
            started_at,
            duration_ms,
            class: failure.as_ref().map(|failure| failure.class),
            error: failure.as_ref().map(|failure| failure.message.clone()),
            backtrace: failure.and_then(|failure| failure.backtrace),
            retry_in_ms: None,
            consumer: self.consumer.clone(),
            plugin: name,
            digest,
            stderr: completed.stderr,
            log: completed.log,
            log_lines_dropped: completed.log_lines_dropped,
        };
        let children = success.published.iter().map(|published| published.event.id).collect();
        let publish = success.published.into_iter().map(|published| self.append(published)).collect();
        let (detail, kept) = self.keep(&ended, &settlement, &lane, &delivery);
        let Delivery { record, receipt, .. } = delivery;
        let record = record.with_attempt(ended, &settlement, clock::now(), success.result, children);
        let record = record.with_detail(detail);
        let reservations = AttemptReservations {
            _lanes: reserved.ok().flatten().or(kept),
            history: (settlement == Settlement::Processed)
                .then(|| self.history.reserve(&receipt.lane, &record))
                .flatten(),
        };
        let settle = SettleRequest { receipt, record, settlement, lane, publish, state: success.state };
        (settle, reservations)
    }

    /// Decides how much of an attempt is kept, and reserves what it adds to the lane in which the event waits or failed.
    fn keep(
        &self,
        attempt: &AttemptRecord,
        settlement: &Settlement,
        next_lane: &Lane,
        delivery: &Delivery,
    ) -> (AttemptDetail, Option<LaneReservation>) {
        let own_lane = &delivery.receipt.lane;
        let (lane, place, (detail, reservation)) = match settlement {
            // Most attempts have no output, and nothing of these is left out.
            Settlement::Processed if !attempt.has_output() && delivery.record.attempts.is_empty() => {
                return (AttemptDetail::Whole, None);
            }
            Settlement::Processed => {
                let detail = self.history.keep_attempt(own_lane, attempt.stored_bytes());
                (own_lane, KeptPlace::History, (detail, None))
            }
            // The reason is kept beside the error, which it repeats.
            Settlement::Failed { .. } => {
                let error_bytes = attempt.error.as_ref().map_or(0, |error| error.len() as u64);
                let kept = self.backlog.keep_attempt(own_lane, attempt.stored_bytes() + error_bytes);
                (own_lane, KeptPlace::Lane, kept)
            }
            Settlement::Retry { .. } => {
                (next_lane, KeptPlace::Lane, self.backlog.keep_attempt(next_lane, attempt.stored_bytes()))
            }
            Settlement::Deferred { .. } | Settlement::Returned => {
                (next_lane, KeptPlace::Lane, self.backlog.keep_attempt(next_lane, 0))
            }
        };
        if detail != AttemptDetail::Whole && attempt.has_output() {
            self.shortened.lock().note(lane, place);
        }
        (detail, reservation)
    }

    /// Reserves room for what an attempt publishes. The error is the limit that forbids it now; the attempt then runs again
    /// later.
    fn reserve(&self, own: &Lane, outcome: &AttemptOutcome) -> Result<Option<LaneReservation>, String> {
        let AttemptOutcome::Ok(success) = outcome else { return Ok(None) };
        if success.published.is_empty() {
            return Ok(None);
        }
        let target = |published: &PublishedEvent| {
            (self.lane(&published.event.event_type), EVENT_BYTES + attribute_and_data_bytes(&published.event))
        };
        self.backlog.reserve(own, success.published.iter().map(target)).map(Some)
    }

    /// The lane of a type by the current routing.
    pub(super) fn lane(&self, event_type: &EventType) -> Lane {
        self.coverage.lane(event_type)
    }

    async fn next_step(&self, delivery: &Delivery) -> DeliveryDecision {
        if delivery.deliveries_in_a_row() > CRASH_CAP {
            let message = format!("in each of the last {CRASH_CAP} deliveries the host died or lost its lease");
            return DeliveryDecision::Fail(AttemptFailure::new(FailureClass::Crash, message));
        }
        let event_type = &delivery.record.event.event_type;
        if let Some(plugin) = self.plugins.route(event_type) {
            let own_lane = own_lane(&self.plugins, event_type);
            // It was claimed before the pause was known, or taken over from a consumer that is gone.
            if let Some(lane) = own_lane.as_ref().filter(|lane| self.pauses.is_paused(lane)) {
                return DeliveryDecision::Return(lane.clone());
            }
            // A suspect is handled in its lane, whichever that is, so that it runs alone.
            let own_lane = own_lane.filter(|_| delivery.deliveries == 1);
            return match own_lane.filter(|lane| *lane != delivery.receipt.lane) {
                Some(lane) => DeliveryDecision::Return(lane),
                None => DeliveryDecision::Handle(plugin),
            };
        }
        if self.plugins.is_starting() {
            return DeliveryDecision::Return(self.lane(event_type));
        }
        match self.coverage.route_unhandled(event_type).await {
            UnhandledRoute::Lane(lane) => DeliveryDecision::Return(lane),
            UnhandledRoute::Unclear => DeliveryDecision::Return(delivery.receipt.lane.clone()),
            UnhandledRoute::NoHandler => {
                let message = format!("no plugin handles the type {:?}", event_type.as_str());
                DeliveryDecision::Fail(AttemptFailure::new(FailureClass::NoHandler, message))
            }
        }
    }

    fn append(&self, published: PublishedEvent) -> AppendRequest {
        let lane = self.lane(&published.event.event_type);
        let start = if published.delay_ms == 0 { DeliveryStart::Now } else { DeliveryStart::InMs(published.delay_ms) };
        AppendRequest { record: EventRecord::new(published.event), lane, start, idempotency: None }
    }

    fn log(
        &self,
        event: &Event,
        attempt: u32,
        duration_ms: f64,
        plugin: Option<&Plugin>,
        (outcome, settlement): (&AttemptOutcome, &Settlement),
    ) {
        let reason = match outcome {
            AttemptOutcome::Failed(failure) => failure.message.lines().next().unwrap_or_default(),
            AttemptOutcome::Ok(_) => "",
        };
        let plugin = plugin.map(Plugin::name);
        let (id, event_type) = (event.id, event.event_type.as_str());
        match settlement {
            Settlement::Failed { class, reason } => tracing::warn!(
                event.id = %id, event.type = event_type, delivery.attempt = attempt, plugin.id = plugin, duration_ms, class = class.as_str(),
                "event failed: {}", reason.lines().next().unwrap_or_default()
            ),
            Settlement::Retry { class, delay_ms } => tracing::info!(
                event.id = %id, event.type = event_type, delivery.attempt = attempt, plugin.id = plugin, duration_ms, class = class.as_str(),
                "attempt failed, next one in {delay_ms} ms: {reason}"
            ),
            Settlement::Deferred { delay_ms } => tracing::info!(
                event.id = %id, event.type = event_type, delivery.attempt = attempt, plugin.id = plugin, duration_ms,
                "attempt deferred by {delay_ms} ms and its effects dropped, because too many events wait: {reason}"
            ),
            Settlement::Processed | Settlement::Returned => tracing::debug!(
                event.id = %id, event.type = event_type, delivery.attempt = attempt, plugin.id = plugin, duration_ms, "event processed"
            ),
        }
    }
}

/// Fails an attempt that publishes beyond the longest chain of causes. It stops handlers that publish their own type.
fn within_depth(outcome: AttemptOutcome, max_depth: u32) -> AttemptOutcome {
    match &outcome {
        AttemptOutcome::Ok(success) if success.published.iter().any(|published| published.event.depth > max_depth) => {
            let message = format!(
                "it published an event at the end of a chain of more than {max_depth} events that cause one another, the \
                 most that events.max_depth allows: does a handler publish events that lead to itself again?"
            );
            AttemptOutcome::Failed(AttemptFailure::new(FailureClass::Output, message))
        }
        _ => outcome,
    }
}

/// Returns a delivery to a lane, as if it had never been made. The record keeps how many deliveries in a row crashed.
pub(super) fn returned(delivery: Delivery, lane: Lane) -> SettleRequest {
    SettleRequest {
        receipt: delivery.receipt,
        record: delivery.record.with_lost_deliveries(delivery.deliveries),
        settlement: Settlement::Returned,
        lane,
        publish: Vec::new(),
        state: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AttemptEffects, Timestamp};

    #[test]
    fn a_chain_of_causes_ends_at_its_longest_length() {
        let publishing = |depth| {
            let event = Event { depth, ..Event::new("a".parse().unwrap(), "/s", Timestamp::from_unix_ms(0)) };
            AttemptOutcome::Ok(AttemptEffects {
                published: vec![PublishedEvent { event, delay_ms: 0 }],
                ..AttemptEffects::default()
            })
        };
        let at_the_end = publishing(64);
        assert_eq!(within_depth(at_the_end.clone(), 64), at_the_end);
        let AttemptOutcome::Failed(failure) = within_depth(publishing(65), 64) else { panic!("it is too deep") };
        assert_eq!(failure.class, FailureClass::Output);
        assert!(failure.message.contains("events.max_depth"), "{}", failure.message);
    }
}
