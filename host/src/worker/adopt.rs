//! Puts events back to work that failed for want of a plugin, once there is one.

use std::sync::Arc;

use crate::broker::{EndKind, EndedQuery, Error, ReplayOutcome};
use crate::event::FailureClass;

use super::WorkerState;
use super::settle::SettleBackoff;

/// Events looked at with one call.
const PAGE: usize = 100;

/// Looks once at the start, whenever the plugins change, and when an attempt for want of a plugin was settled after the
/// look that its plugin brought about, until the worker stops.
pub(super) async fn run(shared: Arc<WorkerState>) -> anyhow::Result<()> {
    let mut changes = shared.plugins.changes();
    let mut backoff = SettleBackoff::default();
    while !shared.stop.is_cancelled() {
        changes.borrow_and_update();
        tokio::select! {
            () = shared.stop.cancelled() => return Ok(()),
            adopted = adopt(&shared) => match adopted {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "events put back to work: a plugin for them was loaded"),
                Err(error) => {
                    tracing::debug!("could not look for events without a plugin: {error}");
                    tokio::select! {
                        () = shared.stop.cancelled() => {}
                        () = tokio::time::sleep(backoff.next()) => {}
                    }
                    continue;
                }
            },
        }
        backoff.reset();
        tokio::select! {
            () = shared.stop.cancelled() => {}
            changed = changes.changed() => changed?,
            () = shared.missed.notified() => {}
        }
    }
    Ok(())
}

async fn adopt(shared: &WorkerState) -> Result<usize, Error> {
    let mut adopted = 0;
    let mut cursor = None;
    loop {
        let class = Some(FailureClass::NoHandler);
        let query = EndedQuery { class, cursor, only_heads: true, ..EndedQuery::all(EndKind::Failed, PAGE) };
        let page = shared.event_log.list_ended(query).await?;
        for record in &page.records {
            let event_type = &record.event.event_type;
            let lane = shared.handler.lane(event_type);
            if shared.reach.is_handled(event_type)
                && shared.event_log.replay(record.event.id, &lane).await? == ReplayOutcome::Done
            {
                adopted += 1;
            }
        }
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(adopted),
        }
    }
}
