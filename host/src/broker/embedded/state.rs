//! The states of an event as they are written in the column `state`. See `schema/1.sql` for what goes with each.

use crate::event::{EventRecord, EventState};

pub(super) const QUEUED: i64 = 0;
pub(super) const RUNNING: i64 = 1;
pub(super) const DUE: i64 = 2;
pub(super) const PROCESSED: i64 = 3;
pub(super) const FAILED: i64 = 4;

/// The state of this record as it is called everywhere else. `None` for a number that is no state.
pub(super) fn named(state: i64, record: &EventRecord) -> Option<EventState> {
    Some(match state {
        QUEUED => EventState::Queued,
        RUNNING => EventState::Running,
        DUE => record.state_until_due(),
        PROCESSED => EventState::Processed,
        FAILED => EventState::Failed,
        _ => return None,
    })
}
