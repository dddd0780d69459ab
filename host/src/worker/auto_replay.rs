//! Replays events that failed because no plugin handled them, once a plugin does.

use std::sync::Arc;

use super::backoff::RetryBackoff;
use super::worker_state::WorkerState;
use crate::broker::{EndKind, EndedQuery, Error, FailedEventChange};
use crate::event::FailureClass;

/// How many events one query returns.
const PAGE: usize = 100;

/// Runs until the worker stops. Looks at the start, whenever the plugins change, and when an event fails without a handler
/// after its plugin was loaded.
pub(super) async fn run(shared: Arc<WorkerState>) -> anyhow::Result<()> {
    let mut changes = shared.plugins.changes();
    let mut backoff = RetryBackoff::default();
    while !shared.stop.is_cancelled() {
        changes.borrow_and_update();
        tokio::select! {
            () = shared.stop.cancelled() => return Ok(()),
            replayed = replay_handled(&shared) => match replayed {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "events put back to work: a plugin for them was loaded"),
                Err(error) => {
                    tracing::debug!("could not look for events without a plugin: {error}");
                    shared.stop.run_until_cancelled(tokio::time::sleep(backoff.next_pause())).await;
                    continue;
                }
            },
        }
        backoff.reset();
        tokio::select! {
            () = shared.stop.cancelled() => {}
            changed = changes.changed() => changed?,
            () = shared.handler_appeared.notified() => {}
        }
    }
    Ok(())
}

/// Replays the failed events that a plugin handles by now. Returns their number.
async fn replay_handled(shared: &WorkerState) -> Result<usize, Error> {
    let mut replayed = 0;
    let mut cursor = None;
    loop {
        let class = Some(FailureClass::NoHandler);
        let query = EndedQuery { class, cursor, only_heads: true, ..EndedQuery::all(EndKind::Failed, PAGE) };
        let page = shared.event_log.list_ended(query).await?;
        for record in &page.records {
            let event_type = &record.event.event_type;
            let lane = shared.handler.lane(event_type);
            if shared.coverage.is_handled(event_type)
                && shared.event_log.replay(record.event.id, &lane, None).await? == FailedEventChange::Done
            {
                replayed += 1;
            }
        }
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(replayed),
        }
    }
}
