//! What an attempt came to, and what follows from it.
//!
//! [`decide`] is the one place where the table of contract section 7 stands. It reads no clock and rolls no dice: the
//! pause is relative (the broker's clock makes a due time of it) and the jitter is an argument.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Event, EventData, RetryPolicies, StateStep};

/// The kinds of failure, each with its own policy; the same words in HTTP, metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The handler asked to be called again.
    Retry,
    /// The handler said that trying again cannot help.
    Reject,
    /// The handler trapped, panicked or exited: a bug.
    Trap,
    /// The wall or CPU time of the attempt was over.
    Timeout,
    /// The handler wanted more memory, table, stack or host-call data than it may have.
    Limit,
    /// What the handler returned or published is too large or invalid.
    Output,
    /// No plugin handles the type.
    NoHandler,
    /// The host died in the attempt, again and again.
    Crash,
    /// The store's entry cannot be read as an event; its bytes are kept.
    BadEntry,
}

impl FailureClass {
    /// Every class, in the order of the contract's table.
    pub const ALL: [Self; 9] = [
        Self::Retry,
        Self::Reject,
        Self::Trap,
        Self::Timeout,
        Self::Limit,
        Self::Output,
        Self::NoHandler,
        Self::Crash,
        Self::BadEntry,
    ];

    /// The class as it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Output => "output",
            Self::NoHandler => "no-handler",
            Self::Crash => "crash",
            Self::BadEntry => "bad-entry",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptOutcome {
    /// The handler returned ok: its effects are to be committed.
    Ok(AttemptEffects),
    /// Anything else: the effects are dropped.
    Failed(AttemptFailure),
}

/// The effects of a handler that returned ok; they are committed together with the acknowledgement, or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttemptEffects {
    /// What the handler returned to be kept.
    pub result: Option<EventData>,
    /// The events that it published, in order.
    pub published: Vec<PublishedEvent>,
    /// What it saw and changed of its state; `None` if it did not look.
    pub state: Option<StateStep>,
}

/// An event that a handler published and that does not exist until the attempt is settled.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedEvent {
    /// The event; its id was made when the handler published it.
    pub event: Event,
    /// Not before this long after the commit.
    pub delay_ms: u64,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFailure {
    /// Which policy applies.
    pub class: FailureClass,
    /// What happened, in words for the person who looks at the failed event.
    pub message: String,
    /// Where in the guest it happened, innermost frame first.
    pub backtrace: Option<String>,
    /// The pause that the handler wished for; clamped by the policy.
    pub after_ms: Option<u64>,
}

impl AttemptFailure {
    /// A failure that has no more to say than its message.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), backtrace: None, after_ms: None }
    }
}

/// What is to become of a delivery: the argument of the one atomic step that ends the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The event has reached its end; the result is kept.
    Processed,
    /// The event is to be tried again after the pause, by the broker's clock.
    Retry {
        /// Why.
        class: FailureClass,
        /// The pause.
        delay_ms: u64,
    },
    /// The event has reached its end and waits for a person.
    Failed {
        /// Why.
        class: FailureClass,
        /// Why, in words.
        reason: String,
    },
    /// A limit of the deployment was in the way: the effects are dropped, no attempt and no failure is counted, and the
    /// event is due again after the pause, by the broker's clock.
    Deferred {
        /// The pause.
        delay_ms: u64,
    },
    /// The attempt never began: the event goes back to the end of its lane, and nothing is counted.
    Returned,
}

impl Settlement {
    /// Whether the event has reached its end.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Processed | Self::Failed { .. })
    }
}

/// What follows from an outcome.
///
/// `failures` counts the failed attempts before this one since the event was accepted or last replayed; deliveries that
/// ended with the host are not among them. `jitter` is uniform in 0..1.
pub fn decide(outcome: &AttemptOutcome, failures: u32, policies: &RetryPolicies, jitter: f64) -> Settlement {
    let failure = match outcome {
        AttemptOutcome::Ok(_) => return Settlement::Processed,
        AttemptOutcome::Failed(failure) => failure,
    };
    let failures = failures.saturating_add(1);
    match policies.get(failure.class) {
        Some(policy) if failures < policy.max_attempts => Settlement::Retry {
            class: failure.class,
            delay_ms: match failure.after_ms {
                Some(wish_ms) => wish_ms.min(policy.max_ms),
                None => policy.pause_ms(failures, jitter),
            },
        },
        _ => Settlement::Failed { class: failure.class, reason: failure.message.clone() },
    }
}

/// The first pause of an attempt that is put off; it doubles with each further one.
const DEFER_INITIAL_MS: u64 = 1_000;
/// The longest pause.
const DEFER_MAX_MS: u64 = 60_000;
/// So often in a row an attempt is put off before it counts as failed: about a day.
const MAX_DEFERRALS: u32 = 1_920;

/// What follows when a limit of the deployment is in the way of an attempt that was put off `deferrals` times before.
///
/// The pause lies in the upper half of its range, so that what was put off together does not come back together. After
/// about a day the event fails with class `retry`, since it would keep its place for ever.
pub fn defer(why: &str, deferrals: u32, jitter: f64) -> Settlement {
    if deferrals >= MAX_DEFERRALS {
        let reason = format!("put off for a day: {why}");
        return Settlement::Failed { class: FailureClass::Retry, reason };
    }
    let ceiling_ms = (DEFER_INITIAL_MS << deferrals.min(10)).min(DEFER_MAX_MS);
    Settlement::Deferred { delay_ms: ceiling_ms / 2 + (ceiling_ms as f64 / 2.0 * jitter.clamp(0.0, 1.0)) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_off_waits_longer_each_time_and_fails_after_a_day() {
        for (deferrals, jitter, delay_ms) in
            [(0, 0.0, 500), (0, 1.0, 1_000), (3, 1.0, 8_000), (9, 0.0, 30_000), (MAX_DEFERRALS - 1, 1.0, 60_000)]
        {
            assert_eq!(defer("why", deferrals, jitter), Settlement::Deferred { delay_ms }, "{deferrals}");
        }
        let Settlement::Failed { class, reason } = defer("why", MAX_DEFERRALS, 0.0) else { panic!("it has failed") };
        assert!(class == FailureClass::Retry && reason.contains("why"), "{reason}");
    }

    fn decided(class: FailureClass, failures: u32, after_ms: Option<u64>) -> Settlement {
        let failure = AttemptFailure { after_ms, ..AttemptFailure::new(class, "why") };
        decide(&AttemptOutcome::Failed(failure), failures, &RetryPolicies::default(), 1.0)
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
            assert_eq!(decided(class, failures, None), expected, "{class} after {failures} failures");
        }
    }

    #[test]
    fn a_wish_is_honoured_up_to_the_longest_pause() {
        assert_eq!(
            decided(FailureClass::Retry, 0, Some(5)),
            Settlement::Retry { class: FailureClass::Retry, delay_ms: 5 }
        );
        assert_eq!(
            decided(FailureClass::Retry, 0, Some(u64::MAX)),
            Settlement::Retry { class: FailureClass::Retry, delay_ms: 300_000 }
        );
        assert!(matches!(decided(FailureClass::Retry, 4, Some(5)), Settlement::Failed { .. }));
    }

    #[test]
    fn ok_is_processed_whatever_went_before() {
        let outcome = AttemptOutcome::Ok(AttemptEffects::default());
        assert_eq!(decide(&outcome, 99, &RetryPolicies::default(), 0.0), Settlement::Processed);
    }

    #[test]
    fn classes_are_written_alike_by_serde_and_display() {
        for class in FailureClass::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
    }
}
