//! The states of an event as they are written in the column `state`. See `schema/1.sql` for what goes with each.

use crate::event::State;

pub(super) const QUEUED: i64 = 0;
pub(super) const RUNNING: i64 = 1;
pub(super) const DUE: i64 = 2;
pub(super) const PROCESSED: i64 = 3;
pub(super) const FAILED: i64 = 4;

/// The state as it is called everywhere else. What is due later is `scheduled` before its first attempt failed, and
/// `retrying` afterwards. `None` for a number that is no state.
pub(super) fn named(state: i64, failures: u32) -> Option<State> {
    Some(match state {
        QUEUED => State::Queued,
        RUNNING => State::Running,
        DUE if failures == 0 => State::Scheduled,
        DUE => State::Retrying,
        PROCESSED => State::Processed,
        FAILED => State::Failed,
        _ => return None,
    })
}
