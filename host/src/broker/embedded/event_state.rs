//! The values of the column `state`. `store/schema/1.sql` and `4.sql` say what the other columns hold in each state.

use crate::event::{EventRecord, EventState};

pub(super) const QUEUED: i64 = 0;
pub(super) const RUNNING: i64 = 1;
pub(super) const DUE: i64 = 2;
pub(super) const PROCESSED: i64 = 3;
pub(super) const FAILED: i64 = 4;
pub(super) const DISCARDED: i64 = 5;

/// The state of a record whose column `state` holds `state`; `None` for an unknown number.
pub(super) fn event_state(state: i64, record: &EventRecord) -> Option<EventState> {
    Some(match state {
        QUEUED => EventState::Queued,
        RUNNING => EventState::Running,
        DUE => record.state_until_due(),
        PROCESSED => EventState::Processed,
        FAILED => EventState::Failed,
        DISCARDED => EventState::Discarded,
        _ => return None,
    })
}
