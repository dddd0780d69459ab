//! Moves due events to their lanes.

use std::pin::Pin;
use std::sync::Arc;

use redis::Value;

use super::client::StoreClient;
use super::connection::{TroubleKind, join_messages, reply};
use super::lanes::LaneDirectory;
use crate::broker::{Error, PromoteOutcome};

/// The most events that one call moves.
const MAX_MOVED: usize = 100;
/// How long an event is postponed if the key of its lane holds another type.
const POSTPONE_MS: u64 = 5_000;

/// The step that moves due events. It is one call of one script; tests replace it by several calls, to prove that they
/// notice the difference.
pub(super) type PromoteStep = for<'a> fn(&'a EventPromoter) -> PromoteStepFuture<'a>;

/// What a [`PromoteStep`] returns.
pub(super) type PromoteStepFuture<'a> = Pin<Box<dyn Future<Output = Result<PromoteOutcome, Error>> + Send + 'a>>;

/// Moves due events to their lanes.
pub(super) struct EventPromoter {
    pub(super) client: Arc<StoreClient>,
    pub(super) lanes: Arc<LaneDirectory>,
    pub(super) step: PromoteStep,
}

impl EventPromoter {
    /// Moves due events.
    pub(super) async fn promote(&self) -> Result<PromoteOutcome, Error> {
        (self.step)(self).await
    }

    /// Moves due events in one step; the [`PromoteStep`] of every deployment.
    pub(super) fn promote_atomically(&self) -> PromoteStepFuture<'_> {
        Box::pin(self.call_promote())
    }

    async fn call_promote(&self) -> Result<PromoteOutcome, Error> {
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
    }
}

/// The outcome of a promotion, from the number of moved events and the time until the next is due. That time is negative
/// if none is scheduled.
pub(super) fn read_outcome(moved: &Value, wait_ms: &Value) -> Result<PromoteOutcome, Error> {
    let moved = reply::index(moved)?;
    let next_due_in_ms = u64::try_from(reply::int(wait_ms)?).ok();
    Ok(PromoteOutcome { moved, more: next_due_in_ms == Some(0), next_due_in_ms })
}
