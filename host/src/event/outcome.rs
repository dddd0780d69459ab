//! The outcome of an attempt, and the settlement that follows from it.
//!
//! [`decide_settlement`] alone decides what becomes of a delivery. It reads no clock and draws no random number.
//! The jitter is an argument, and the broker's clock turns a pause into a due time.

use super::{Event, EventData, FailureClass, RetryPolicies, StateChanges};

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptOutcome {
    /// The handler returned ok. The settlement commits its effects.
    Ok(AttemptEffects),
    /// The attempt failed. Its effects are dropped.
    Failed(AttemptFailure),
}

/// The effects of a handler that returned ok. The broker commits all of them with the acknowledgement, or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttemptEffects {
    /// The result that the handler returned.
    pub result: Option<EventData>,
    /// The events that it published, in order.
    pub published: Vec<PublishedEvent>,
    /// What it read and changed of its state; `None` if it used no state.
    pub state: Option<StateChanges>,
}

/// An event that a handler published. It exists once the attempt is settled.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedEvent {
    /// The event; its id was made when the handler published it.
    pub event: Event,
    /// The shortest time from the commit to its delivery.
    pub delay_ms: u64,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFailure {
    /// The class, which selects the policy.
    pub class: FailureClass,
    /// What happened, for the person who looks at the failed event.
    pub message: String,
    /// Where in the guest it happened, innermost frame first.
    pub backtrace: Option<String>,
    /// The pause that the handler asked for. The policy limits it.
    pub after_ms: Option<u64>,
}

impl AttemptFailure {
    /// Creates a failure without a backtrace or a requested pause.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), backtrace: None, after_ms: None }
    }
}

/// How a delivery ends: the argument of the one atomic step that ends the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The event is processed. Its result is kept.
    Processed,
    /// The event is due again after the pause, by the broker's clock.
    Retry {
        /// The class of the failure.
        class: FailureClass,
        /// The pause.
        delay_ms: u64,
    },
    /// The event has failed and stays until an operator acts.
    Failed {
        /// The class of the failure.
        class: FailureClass,
        /// What happened, in words.
        reason: String,
    },
    /// A limit of the deployment prevented the attempt. Its effects are dropped, and no attempt or failure is counted. The
    /// event is due again after the pause, by the broker's clock.
    Deferred {
        /// The pause.
        delay_ms: u64,
    },
    /// The attempt never began. The event goes back to the end of its lane, and nothing is counted.
    Returned,
}

impl Settlement {
    /// Whether the settlement ends the event.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Processed | Self::Failed { .. })
    }
}

/// Decides how to settle an outcome.
///
/// `failures` counts the failed attempts before this one since the event was accepted or last replayed. Deliveries that
/// ended with their host do not count. `jitter` is uniform in 0..1.
pub fn decide_settlement(outcome: &AttemptOutcome, failures: u32, policies: &RetryPolicies, jitter: f64) -> Settlement {
    let failure = match outcome {
        AttemptOutcome::Ok(_) => return Settlement::Processed,
        AttemptOutcome::Failed(failure) => failure,
    };
    let failures = failures.saturating_add(1);
    match policies.get(failure.class) {
        Some(policy) if failures < policy.max_attempts => Settlement::Retry {
            class: failure.class,
            delay_ms: match failure.after_ms {
                Some(requested_ms) => requested_ms.min(policy.max_ms),
                None => policy.pause_ms(failures, jitter),
            },
        },
        _ => Settlement::Failed { class: failure.class, reason: failure.message.clone() },
    }
}

/// The upper end of the first pause of a deferred attempt. It doubles with each further one.
const DEFER_INITIAL_MS: u64 = 1_000;
/// The longest pause of a deferred attempt.
const DEFER_MAX_MS: u64 = 60_000;
/// An attempt deferred this often in a row, about a day long, counts as failed.
const MAX_DEFERRALS: u32 = 1_920;

/// Decides how to settle an attempt that a limit of the deployment prevented, after `deferrals` deferrals in a row.
///
/// The event fails with class `retry` after about a day: otherwise it would hold its place in the backlog for ever.
pub fn defer_attempt(cause: &str, deferrals: u32, jitter: f64) -> Settlement {
    if deferrals >= MAX_DEFERRALS {
        let reason = format!("deferred for a day: {cause}");
        return Settlement::Failed { class: FailureClass::Retry, reason };
    }
    let ceiling_ms = (DEFER_INITIAL_MS << deferrals.min(10)).min(DEFER_MAX_MS);
    // The random half keeps attempts that were deferred together from coming back together.
    Settlement::Deferred { delay_ms: ceiling_ms / 2 + (ceiling_ms as f64 / 2.0 * jitter.clamp(0.0, 1.0)) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deferred_attempt_waits_longer_each_time_and_fails_after_a_day() {
        for (deferrals, jitter, delay_ms) in
            [(0, 0.0, 500), (0, 1.0, 1_000), (3, 1.0, 8_000), (9, 0.0, 30_000), (MAX_DEFERRALS - 1, 1.0, 60_000)]
        {
            assert_eq!(defer_attempt("why", deferrals, jitter), Settlement::Deferred { delay_ms }, "{deferrals}");
        }
        let Settlement::Failed { class, reason } = defer_attempt("why", MAX_DEFERRALS, 0.0) else {
            panic!("it has failed")
        };
        assert!(class == FailureClass::Retry && reason.contains("why"), "{reason}");
    }

    fn settle_failure(class: FailureClass, failures: u32, after_ms: Option<u64>) -> Settlement {
        let failure = AttemptFailure { after_ms, ..AttemptFailure::new(class, "why") };
        decide_settlement(&AttemptOutcome::Failed(failure), failures, &RetryPolicies::default(), 1.0)
    }

    #[test]
    fn every_class_is_decided_as_the_contract_says() {
        let retry = |class, delay_ms| Settlement::Retry { class, delay_ms };
        let failed = |class| Settlement::Failed { class, reason: "why".into() };
        for (class, failures, expected) in [
            (FailureClass::Retry, 0, retry(FailureClass::Retry, 1_000)),
            (FailureClass::Retry, 3, retry(FailureClass::Retry, 8_000)),
            (FailureClass::Retry, 4, failed(FailureClass::Retry)),
            (FailureClass::Retry, u32::MAX, failed(FailureClass::Retry)),
            (FailureClass::Trap, 0, retry(FailureClass::Trap, 1_000)),
            (FailureClass::Trap, 4, failed(FailureClass::Trap)),
            (FailureClass::Timeout, 3, retry(FailureClass::Timeout, 8_000)),
            (FailureClass::Timeout, 4, failed(FailureClass::Timeout)),
            (FailureClass::Limit, 0, retry(FailureClass::Limit, 1_000)),
            (FailureClass::Limit, 1, failed(FailureClass::Limit)),
            (FailureClass::NoHandler, 0, retry(FailureClass::NoHandler, 1_000)),
            (FailureClass::NoHandler, 4, failed(FailureClass::NoHandler)),
            (FailureClass::Reject, 0, failed(FailureClass::Reject)),
            (FailureClass::Output, 0, failed(FailureClass::Output)),
            (FailureClass::Crash, 0, failed(FailureClass::Crash)),
            (FailureClass::BadEntry, 0, failed(FailureClass::BadEntry)),
        ] {
            assert_eq!(settle_failure(class, failures, None), expected, "{class} after {failures} failures");
        }
    }

    #[test]
    fn a_requested_pause_is_honoured_up_to_the_longest_one() {
        assert_eq!(
            settle_failure(FailureClass::Retry, 0, Some(5)),
            Settlement::Retry { class: FailureClass::Retry, delay_ms: 5 }
        );
        assert_eq!(
            settle_failure(FailureClass::Retry, 0, Some(u64::MAX)),
            Settlement::Retry { class: FailureClass::Retry, delay_ms: 300_000 }
        );
        assert!(matches!(settle_failure(FailureClass::Retry, 4, Some(5)), Settlement::Failed { .. }));
    }

    #[test]
    fn ok_is_processed_whatever_went_before() {
        let outcome = AttemptOutcome::Ok(AttemptEffects::default());
        assert_eq!(decide_settlement(&outcome, 99, &RetryPolicies::default(), 0.0), Settlement::Processed);
    }

    #[test]
    fn classes_are_written_alike_by_serde_and_display() {
        for class in FailureClass::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
    }
}
