//! What an attempt is given, and what comes of it.

use std::sync::Arc;

use crate::event::{AttemptOutcome, Event, LogLine};

/// What a plugin is given with an event.
#[derive(Clone, Debug)]
pub struct AttemptInput {
    /// The event.
    pub event: Arc<Event>,
    /// 1 for the first attempt since the event was accepted or last replayed.
    pub attempt: u32,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    /// Ok with effects, or why not.
    pub outcome: AttemptOutcome,
    /// What the guest logged, within the limits.
    pub log: Vec<LogLine>,
    /// How many log lines were dropped for exceeding the limits.
    pub log_lines_dropped: u32,
    /// What the guest wrote to its standard error, cut to the limit.
    pub stderr: Option<String>,
}
