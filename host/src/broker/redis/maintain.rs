//! Regular work: due events, the heartbeat, new lanes, dead consumers, and retention.
//!
//! Every host may do all of it at the same time. Each step is one script that leaves nothing for a second one to do.

use std::pin::Pin;
use std::sync::Arc;

use redis::Value;

use super::capacity::StoreCapacity;
use super::client::StoreClient;
use super::connection::{CallFailure, TroubleKind, join_messages, reply};
use super::heartbeat::Heartbeat;
use super::lanes::LaneDirectory;
use super::plugin_state::PluginStates;
use crate::broker::{Error, PromoteOutcome, RetentionLimits};

/// The most events that one call trims or counts.
const MAX_TRIMMED: usize = 500;
/// The most bytes that one call reads of a stream.
const MAX_READ_BYTES: usize = 1024 * 1024;
/// The most calls of each kind in one round. The next round goes on.
const MAX_CALLS: usize = 20;
/// The most dead consumers that one round removes.
const MAX_REAPED: usize = 20;
/// The most due events that one call moves.
const MAX_MOVED: usize = 100;
/// How long an event is deferred if the key of its lane holds another type.
const POSTPONE_MS: u64 = 5_000;

/// The step that moves due events. It is one call of one script; tests replace it by several calls, to prove that they
/// notice the difference.
pub(super) type PromoteStep = for<'a> fn(&'a StoreMaintenance) -> PromoteStepFuture<'a>;

/// What a [`PromoteStep`] returns.
pub(super) type PromoteStepFuture<'a> = Pin<Box<dyn Future<Output = Result<PromoteOutcome, Error>> + Send + 'a>>;

/// Maintains the store.
pub(super) struct StoreMaintenance {
    pub(super) client: Arc<StoreClient>,
    pub(super) lanes: Arc<LaneDirectory>,
    pub(super) capacity: Arc<StoreCapacity>,
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) states: Arc<PluginStates>,
    pub(super) retention: RetentionLimits,
    /// Ended events are kept at least so long, whatever the retention says.
    pub(super) min_retention_ms: u64,
    pub(super) promote_step: PromoteStep,
}

impl StoreMaintenance {
    /// One round; true if there is more to trim. A step that fails for a reason of its own does not stop the others, and
    /// its error is returned at the end.
    pub(super) async fn maintain(&self) -> Result<bool, Error> {
        let mut first_error = None;
        // The heartbeat comes first: without it, others take this consumer for dead.
        continue_unless_unavailable(&mut first_error, self.heartbeat.beat().await)?;
        continue_unless_unavailable(&mut first_error, self.lanes.refresh(&[]).await)?;
        continue_unless_unavailable(&mut first_error, self.reap_dead_consumers().await)?;
        continue_unless_unavailable(&mut first_error, self.uncount_ended_keys().await)?;
        let (mut more_events, mut more_state, mut more_failed, mut more_audit) = (true, true, true, true);
        for _ in 0..MAX_CALLS {
            if more_failed {
                let counted = self.recount_failed().await;
                more_failed = continue_unless_unavailable(&mut first_error, counted)?.unwrap_or(false);
            }
            if more_events {
                let trimmed = self.trim_history().await;
                more_events = continue_unless_unavailable(&mut first_error, trimmed)?.unwrap_or(false);
            }
            if more_state {
                let removed = self.states.remove_expired().await;
                more_state = continue_unless_unavailable(&mut first_error, removed)?.unwrap_or(false);
            }
            if more_audit {
                let trimmed = self.trim_audit().await;
                more_audit = continue_unless_unavailable(&mut first_error, trimmed)?.unwrap_or(false);
            }
        }
        first_error.map_or(Ok(more_events || more_state || more_failed || more_audit), Err)
    }

    /// Moves due events.
    pub(super) async fn promote(&self) -> Result<PromoteOutcome, Error> {
        (self.promote_step)(self).await
    }

    /// Moves due events in one step; the [`PromoteStep`] of every deployment.
    pub(super) fn promote_atomically(&self) -> PromoteStepFuture<'_> {
        Box::pin(async move {
            let client = &self.client;
            let (_, reply) = self
                .lanes
                .call_with_all(|known| {
                    client
                        .script_call(&client.scripts.promote)
                        .number(known.set_size)
                        .number(MAX_MOVED)
                        .number(known.unrouted_place())
                        .number(POSTPONE_MS)
                        .named_lanes(&client.keys, &known.lanes)
                })
                .await?;
            let [_, moved, orphans, wait_ms, wrong] = reply::tuple(reply)?;
            let wrong = reply::array(wrong)?.into_iter().map(reply::text).collect::<Result<_, _>>()?;
            if let Some(message) = join_messages(wrong) {
                client.troubles().raise(TroubleKind::Misplaced, message);
            }
            let orphans = reply::count(&orphans)?;
            if orphans > 0 {
                client.troubles().warn("orphan", || format!("{orphans} due times without an event were dropped"));
            }
            read_outcome(&moved, &wait_ms)
        })
    }

    async fn reap_dead_consumers(&self) -> Result<(), Error> {
        for name in self.heartbeat.dead_consumers().iter().take(MAX_REAPED) {
            if self.heartbeat.reap(name).await? {
                tracing::info!(consumer = name, "a dead consumer without deliveries was removed");
            }
        }
        Ok(())
    }

    /// Trims processed and discarded events past their retention, those of the largest lane first; true if there may be
    /// more.
    async fn trim_history(&self) -> Result<bool, CallFailure> {
        let client = &self.client;
        let known = self.lanes.known();
        let mut call = client
            .script_call(&client.scripts.trim)
            .number(self.retention.processed_max)
            .number(self.retention.processed_ms)
            .number(self.retention.discarded_ms)
            .number(self.min_retention_ms)
            .number(MAX_TRIMMED)
            .number(MAX_READ_BYTES)
            .number(self.capacity.max_history_bytes())
            .named_lanes(&client.keys, &known.lanes);
        call.push_key(client.keys.discarded());
        known.lanes.iter().for_each(|lane| call.push_key(client.keys.lane_log(lane)));
        Ok(reply::count(&client.call(&call).await?)? > 0)
    }

    /// Takes idempotency keys off the totals after their window.
    async fn uncount_ended_keys(&self) -> Result<(), CallFailure> {
        let client = &self.client;
        let mut call = client.script_call(&client.scripts.idem_expire);
        call.push_key(client.keys.idempotency_ends());
        client.call(&call).await.map(drop)
    }

    /// Deletes entries of the audit past their retention; true if there may be more.
    async fn trim_audit(&self) -> Result<bool, CallFailure> {
        let client = &self.client;
        let mut call = client
            .script_call(&client.scripts.audit_trim)
            .number(self.retention.audit_max)
            .number(self.retention.audit_ms)
            .number(MAX_TRIMMED);
        call.push_key(client.keys.audit());
        Ok(reply::count(&client.call(&call).await?)? > 0)
    }

    /// Corrects the bytes of failed events where hosts of older versions did not count; true if there is more to read.
    async fn recount_failed(&self) -> Result<bool, CallFailure> {
        let client = &self.client;
        let call = client.script_call(&client.scripts.recount).number(MAX_TRIMMED).number(MAX_READ_BYTES);
        Ok(reply::count(&client.call(&call).await?)? > 0)
    }
}

/// The result of a step; `None` if it failed, with the first such error kept in `first_error`.
///
/// # Errors
/// The store is unavailable, so the next steps would fail as well.
fn continue_unless_unavailable<T, E: Into<Error>>(
    first_error: &mut Option<Error>,
    step: Result<T, E>,
) -> Result<Option<T>, Error> {
    match step.map_err(Into::into) {
        Ok(result) => Ok(Some(result)),
        Err(error @ Error::Unavailable { .. }) => Err(error),
        Err(error) => {
            first_error.get_or_insert(error);
            Ok(None)
        }
    }
}

/// The outcome of a promotion, from the number of moved events and the time until the next is due. That time is negative
/// if none is scheduled.
pub(super) fn read_outcome(moved: &Value, wait_ms: &Value) -> Result<PromoteOutcome, Error> {
    let moved = reply::index(moved)?;
    let next_due_in_ms = u64::try_from(reply::int(wait_ms)?).ok();
    Ok(PromoteOutcome { moved, more: next_due_in_ms == Some(0), next_due_in_ms })
}
