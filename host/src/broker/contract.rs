//! The suite that tests the guarantees of [`Broker`] on any store: one async function, a case, for each promise.
//!
//! A case opens one broker at a time on the store of its [`BrokerRig`], so it also works with a store that one process
//! owns. [`BrokerRig::kill`] ends a consumer, and the next one opens the same store. Tests with several consumers at
//! once, or with the faults of one kind of store, are beside that store. No case asserts how long something takes;
//! cases wait with a generous limit.
//!
//! `broker_contract!` makes a test of each case.

pub mod accept;
pub mod attempt_bytes;
pub mod audit;
pub mod coverage;
pub mod discard;
pub mod ends;
pub mod failed_limit;
pub mod key_limit;
pub mod keys;
pub mod leases;
pub mod limits;
pub mod model;
pub mod pauses;
pub mod state;
pub mod transfer;
pub mod waiting;
pub mod work;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::clock::now;

use async_trait::async_trait;

pub use super::{
    AuditStore, Broker, ConsumerDirectory, EventLog, KeyStore, PauseStore, PluginStateReader, PluginStateRemover,
    StoreTransfer, WorkQueue,
};

use super::{
    AppendRequest, BrokerOptions, ClaimRequest, Delivery, EndKind, EndedQuery, Lane, LaneDemand, SettleOutcome,
    SettleRequest,
};
use crate::event::{
    AttemptRecord, DeliveryStart, Event, EventData, EventId, EventRecord, EventState, FailureClass, Idempotency,
    Settlement, Timestamp,
};

/// How long a case waits before it fails.
const LIMIT: Duration = Duration::from_secs(120);
/// The lease in cases that wait for its end, in milliseconds.
pub const SHORT_LEASE_MS: u64 = 300;

/// One store, and the consumers that open it in turn.
#[async_trait]
pub trait BrokerRig: Send + Sync {
    /// Opens the store as a consumer. Processed events must have no minimum age for their deletion.
    async fn open(&self, options: BrokerOptions) -> Arc<dyn Broker>;

    /// Ends a consumer as a crash does, without a close.
    async fn kill(&self, broker: Arc<dyn Broker>);

    /// Damages an event that waits in the lane `a` of the namespace of [`options`], so that it cannot be read. Its
    /// stored fields stay text.
    async fn damage(&self, id: EventId);
}

/// Makes a test of every case. Each test evaluates the expression, which makes a rig with an empty store.
#[macro_export]
macro_rules! broker_contract {
    ($rig:expr) => {
        $crate::broker_contract! { @cases $rig;
            accept::an_accepted_event_survives_a_crash,
            accept::a_request_is_appended_whole_or_not_at_all,
            accept::the_same_key_gives_the_first_id,
            accept::the_same_key_with_another_body_is_a_conflict,
            accept::past_the_limit_nothing_is_accepted_until_something_ended,
            accept::a_delayed_event_is_not_delivered_before_its_time,
            accept::payloads_come_back_byte_for_byte,
            accept::many_requests_at_once_are_all_accepted,
            work::a_claim_takes_what_it_wants_and_no_more,
            work::slots_are_shared_out_fairly_in_the_order_asked,
            work::an_event_is_handed_out_once,
            work::a_wait_ends_when_something_arrives,
            work::a_dropped_wait_loses_nothing,
            work::dropped_waits_for_one_lane_hold_up_no_other,
            work::among_many_lanes_none_is_overlooked,
            work::a_retry_waits_until_it_is_due_and_keeps_its_story,
            work::due_times_survive_a_crash,
            work::what_is_due_later_retries_once_an_attempt_failed,
            work::a_returned_delivery_goes_back_uncounted,
            ends::a_processed_event_is_kept_with_its_result_and_its_children,
            ends::a_failed_event_is_kept_and_can_be_replayed,
            ends::only_failed_events_are_replayed,
            ends::ended_events_are_listed_newest_first_page_by_page,
            ends::a_page_of_large_events_is_cut_short,
            ends::ended_events_are_filtered,
            ends::what_is_rare_is_found_page_by_page,
            ends::heads_are_listed_with_what_routes_them,
            ends::what_cannot_be_read_fails_and_looks_the_same_everywhere,
            ends::retention_forgets_only_what_has_ended,
            ends::maintenance_reports_that_more_is_left,
            ends::totals_survive_a_crash,
            leases::a_settle_is_repeatable_and_takes_effect_once,
            leases::a_stale_receipt_changes_nothing,
            leases::deliveries_of_the_dead_are_recovered,
            leases::every_crash_raises_the_delivery_count,
            leases::who_was_delivered_the_most_often_is_recovered_last,
            leases::suspects_of_different_lanes_are_recovered_in_turn,
            leases::renewed_leases_are_not_taken_over,
            leases::a_closed_consumer_leaves_nothing_behind,
            limits::a_lane_that_is_full_refuses_its_own_events_only,
            limits::what_has_not_ended_counts_for_its_lane_wherever_it_stands,
            limits::backlogs_leave_room_for_other_lanes,
            limits::unhandled_types_share_a_fifth_of_the_limit,
            limits::a_deferred_event_returns_as_if_not_tried,
            limits::the_history_of_one_plugin_pushes_no_other_out,
            limits::bytes_that_wait_are_counted_and_limited_by_lane,
            limits::clients_fill_a_lane_up_to_its_limit_of_bytes_and_no_further,
            limits::few_large_results_push_no_history_out,
            limits::an_event_keeps_how_many_caused_it,
            failed_limit::a_lane_full_of_failed_events_refuses_its_own_until_some_are_discarded,
            failed_limit::a_replay_moves_the_bytes_of_a_failed_event,
            failed_limit::failed_events_are_listed_and_moved_with_their_lane,
            attempt_bytes::attempts_count_for_their_lane_until_their_events_end,
            attempt_bytes::a_settle_that_changes_nothing_takes_no_bytes_off,
            attempt_bytes::attempts_that_are_restored_count_for_their_lane,
            key_limit::a_lane_with_too_many_keys_gets_no_new_ones_and_loses_none,
            key_limit::the_limit_of_keys_is_exact_for_batches_and_many_clients,
            key_limit::keys_that_ended_make_room_for_others,
            key_limit::keys_that_are_restored_count,
            pauses::pauses_survive_a_crash,
            pauses::a_pause_ends_by_itself,
            pauses::the_number_of_pauses_is_bounded,
            keys::keys_survive_a_crash,
            keys::of_two_changes_of_a_key_one_wins,
            keys::the_number_of_keys_is_bounded,
            keys::the_last_use_of_a_key_is_kept,
            keys::keys_stay_behind_when_events_move,
            audit::changes_of_events_are_noted_in_their_step,
            audit::changes_of_plugins_and_keys_are_noted_in_their_step,
            audit::the_audit_is_listed_page_by_page,
            audit::the_audit_is_bounded,
            audit::the_audit_stays_behind_when_events_move,
            coverage::a_consumer_recovers_in_its_own_lanes,
            coverage::a_suspect_that_is_handed_back_stays_one,
            state::state_is_visible_from_the_settle_on,
            state::a_concurrent_change_is_a_conflict,
            state::increments_do_not_conflict,
            state::a_lost_delivery_writes_nothing,
            state::a_repeated_settle_writes_once,
            state::keys_end_in_time,
            state::the_size_of_a_plugins_state_is_known,
            state::the_state_of_a_plugin_can_be_removed,
            state::plugins_do_not_see_each_other,
            state::state_survives_a_crash_and_moves_to_another_store,
            waiting::an_event_that_is_due_later_can_start_now,
            waiting::an_event_that_waits_can_be_cancelled,
            waiting::only_events_that_wait_are_cancelled,
            waiting::a_claim_and_a_cancel_at_once_have_one_winner,
            discard::of_two_calls_at_one_moment_one_takes_a_failed_event,
            discard::a_discarded_event_has_ended_for_good,
            discard::only_failed_events_are_discarded,
            discard::a_discard_and_a_replay_at_once_have_one_winner,
            discard::discarded_events_are_kept_as_history_is,
            discard::a_snapshot_brings_no_discarded_event_back,
            discard::failed_events_are_listed_by_lane,
            transfer::a_snapshot_holds_everything_that_can_go_on_once,
            transfer::a_large_snapshot_comes_in_parts_and_in_order,
            transfer::what_is_restored_goes_on_where_it_stood,
            transfer::restoring_again_changes_nothing,
            transfer::what_ended_is_not_brought_back_by_restoring,
            transfer::windows_end_and_limits_are_for_new_events,
            model::random_events_end_once,
        }
    };
    (@cases $rig:expr; $($module:ident :: $case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::broker::contract::$module::$case(&$rig).await;
            }
        )+
    };
}

/// Options with a lease that does not end while a case runs.
pub fn options() -> BrokerOptions {
    BrokerOptions { consumer_name: "contract".into(), ..BrokerOptions::default() }
}

/// Options with a lease that a case can wait for.
pub fn short_lease() -> BrokerOptions {
    BrokerOptions { lease_ms: SHORT_LEASE_MS, ..options() }
}

/// A lane.
pub fn lane(name: &str) -> Lane {
    name.parse().expect("the name is one of a lane")
}

/// Lifts the limits of these lanes.
pub fn without_lane_limits(broker: &dyn Broker, names: &[&str]) {
    broker.limit_lanes(names.iter().map(|name| (lane(name), u64::MAX >> 12)).collect());
}

/// A new event of a type, with a unique payload.
pub fn event(event_type: &str) -> Event {
    let event = Event::new(event_type.parse().expect("the type is valid"), "/contract", now());
    let data = Some(EventData::text(format!("{{\"id\":\"{}\"}}", event.id)));
    Event { data_content_type: Some("application/json".into()), data, ..event }
}

/// The request to append the event to a lane, due at once.
pub fn append_to(name: &str, event: Event) -> AppendRequest {
    AppendRequest { record: EventRecord::new(event), lane: lane(name), start: DeliveryStart::Now, idempotency: None }
}

/// The requests to append `n` new events to a lane, due at once.
pub fn appends(name: &str, n: usize) -> Vec<AppendRequest> {
    (0..n).map(|_| append_to(name, event("order.paid"))).collect()
}

/// An idempotency key with the fingerprint of its body.
pub fn idempotency(key: u8, fingerprint: u8) -> Option<Idempotency> {
    Some(Idempotency { key: [key; 32], fingerprint: [fingerprint; 32] })
}

/// Claims up to `n` deliveries of one lane.
pub async fn claim(broker: &dyn Broker, name: &str, n: usize) -> Vec<Delivery> {
    let lanes = vec![LaneDemand { lane: lane(name), free: n }];
    broker.claim(ClaimRequest { lanes, max: n }).await.expect("the claim is answered")
}

/// Appends one new event to a lane and claims it.
pub async fn deliver_one(broker: &dyn Broker, name: &str) -> Delivery {
    broker.append(appends(name, 1)).await.expect("the event is accepted");
    let mut deliveries = claim(broker, name, 1).await;
    deliveries.pop().expect("what was appended is handed out")
}

/// The record of an attempt that has just ended.
pub fn attempt(delivery: &Delivery, settlement: &Settlement) -> AttemptRecord {
    AttemptRecord {
        attempt: delivery.attempt(),
        replay: delivery.record.replays,
        started_at: now(),
        duration_ms: 0.5,
        class: match settlement {
            Settlement::Retry { class, .. } | Settlement::Failed { class, .. } => Some(*class),
            _ => None,
        },
        error: None,
        backtrace: None,
        retry_in_ms: None,
        consumer: "contract".into(),
        plugin: None,
        digest: None,
        stderr: None,
        log: Vec::new(),
        log_lines_dropped: 0,
    }
}

/// The settle that a worker would request. A processed event gets a result.
pub fn settle(delivery: &Delivery, settlement: Settlement, publish: Vec<AppendRequest>) -> SettleRequest {
    let attempt = attempt(delivery, &settlement);
    let result = matches!(settlement, Settlement::Processed).then(|| EventData::text("\"result\""));
    let children = publish.iter().map(|child| child.record.event.id).collect();
    SettleRequest {
        receipt: delivery.receipt.clone(),
        record: delivery.record.clone().with_attempt(attempt, &settlement, now(), result, children),
        settlement,
        lane: delivery.receipt.lane.clone(),
        publish,
        state: None,
    }
}

/// Settles one delivery and returns the outcome.
pub async fn settle_one(broker: &dyn Broker, delivery: &Delivery, settlement: Settlement) -> SettleOutcome {
    let settled = broker.settle(vec![settle(delivery, settlement, Vec::new())]).await;
    settled.expect("the settle is answered")[0]
}

/// A failure that is final.
pub fn failed(class: FailureClass) -> Settlement {
    Settlement::Failed { class, reason: "as the case wants it".into() }
}

/// A failure that is followed by another attempt.
pub fn retry(delay_ms: u64) -> Settlement {
    Settlement::Retry { class: FailureClass::Retry, delay_ms }
}

/// The state of an event; `None` if it is not known.
pub async fn state(broker: &dyn Broker, id: EventId) -> Option<EventState> {
    broker.find_event(id).await.expect("the event is looked up").map(|found| found.state)
}

/// All events with this end, newest first.
pub async fn all_ended(broker: &dyn Broker, ending: EndKind) -> Vec<EventRecord> {
    let mut query = ended(ending);
    let mut records = Vec::new();
    loop {
        let page = broker.list_ended(query.clone()).await.expect("the page is answered");
        records.extend(page.records);
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return records,
        }
    }
}

/// The first page of all events with this end.
pub fn ended(ending: EndKind) -> EndedQuery {
    EndedQuery::all(ending, 7)
}

/// Promotes all due events and returns their number.
pub async fn promote_all(broker: &dyn Broker) -> usize {
    let mut moved = 0;
    loop {
        let promoted = broker.promote().await.expect("the promotion is answered");
        moved += promoted.moved;
        if !promoted.more {
            return moved;
        }
    }
}

/// Waits until `ask` returns an answer.
///
/// # Panics
/// After two minutes, which fails the case.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < LIMIT, "within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
