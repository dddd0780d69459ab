//! What a deployment kept once every event had ended.

use serde_json::Value;

use crate::client::Event;

/// The final state of a deployment.
#[derive(Debug, Default)]
pub struct FinalState {
    /// Every processed event, as the host lists them.
    pub processed: Vec<Event>,
    /// Every failed event, as the host lists them.
    pub failed: Vec<Event>,
    /// The totals.
    pub metrics: Value,
    /// The most attempts that the policy allows.
    pub max_attempts: usize,
    /// The largest error of the store's clock.
    pub clock_error_ms: f64,
}

impl FinalState {
    /// How many deliveries came to nothing, because their host died or lost its lease. At most this many runs of handlers
    /// were in vain.
    pub fn runs_in_vain(&self) -> u64 {
        let ends = self.processed.iter().chain(&self.failed);
        ends.map(|event| {
            let handed_out = event.attempts.last().map_or(0, |attempt| u64::from(attempt.attempt));
            handed_out.saturating_sub(event.attempts.len() as u64)
        })
        .sum()
    }
}

/// The most attempts that a full store left out of an event. It keeps the first and the last, so they are missing after the
/// first. Each of them failed, or its host died.
pub(crate) fn attempts_left_out(event: &Event) -> u64 {
    match &*event.attempts {
        [first, next, ..] => u64::from(next.attempt.saturating_sub(first.attempt + 1)),
        _ => 0,
    }
}
