//! The input and the result of an attempt.

use std::sync::Arc;

use crate::event::{AttemptFailure, AttemptOutcome, Event, LogLine};

/// The input of an attempt.
#[derive(Clone, Debug)]
pub struct AttemptInput {
    /// The event.
    pub event: Arc<Event>,
    /// 1 for the first attempt since the event was accepted or last replayed.
    pub attempt: u32,
}

/// An attempt that ended.
#[derive(Clone, Debug)]
pub struct CompletedAttempt {
    /// Ok with effects, or a failure.
    pub outcome: AttemptOutcome,
    /// The log lines of the guest, within the limits.
    pub log: Vec<LogLine>,
    /// How many log lines were dropped for exceeding the limits.
    pub log_lines_dropped: u32,
    /// The end of the guest's standard error, within the limit.
    pub stderr: Option<String>,
}

impl CompletedAttempt {
    /// An attempt that failed before a guest ran.
    pub(crate) fn failed(failure: AttemptFailure) -> Self {
        Self { outcome: AttemptOutcome::Failed(failure), log: Vec::new(), log_lines_dropped: 0, stderr: None }
    }
}
