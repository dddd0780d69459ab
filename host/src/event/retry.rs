//! The classes of failure, and the retry policies: when a failed event is tried again, for each class.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The classes of failure. Those that are tried again have their own policies. HTTP, metrics and logs use the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The handler asked to be called again.
    Retry,
    /// The handler said that another attempt cannot help.
    Reject,
    /// The handler trapped, panicked or exited: it has a bug.
    Trap,
    /// The attempt used up its wall time or CPU time.
    Timeout,
    /// The handler asked for more memory, table, stack or host-call data than its limits allow.
    Limit,
    /// What the handler returned or published is too large or invalid.
    Output,
    /// No plugin handles the type of the event.
    NoHandler,
    /// The host died during the attempt, five deliveries in a row.
    Crash,
    /// The broker's entry cannot be read as an event. Its bytes are kept.
    BadEntry,
}

/// Lists the classes once, in the order in which documents list them. Without its line a class does not compile.
macro_rules! class_names {
    ($($class:ident => $name:literal,)+) => {
        impl FailureClass {
            /// Every class.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$class),+];

            /// The class as text, the same everywhere.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$class => $name,)+
                }
            }
        }
    };
}

class_names! {
    Retry => "retry",
    Reject => "reject",
    Trap => "trap",
    Timeout => "timeout",
    Limit => "limit",
    Output => "output",
    NoHandler => "no-handler",
    Crash => "crash",
    BadEntry => "bad-entry",
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often an event is tried, and how long it pauses between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// The most attempts, the first included; at least 1.
    pub max_attempts: u32,
    /// The upper end of the pause after the first failed attempt, in milliseconds.
    pub initial_ms: u64,
    /// The factor by which the upper end grows with each further failure; at least 1.
    pub factor: f64,
    /// The longest pause, in milliseconds. It also limits the pause that a handler asks for.
    pub max_ms: u64,
}

impl Default for RetryPolicy {
    /// 5 attempts, 1 s doubling to 5 min.
    fn default() -> Self {
        Self { max_attempts: 5, initial_ms: 1_000, factor: 2.0, max_ms: 300_000 }
    }
}

impl RetryPolicy {
    /// Returns the pause after the `failures`-th failure. `jitter` in 0..1 spreads it over the whole range, so that events
    /// that failed together do not come back together.
    pub fn pause_ms(&self, failures: u32, jitter: f64) -> u64 {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let ceiling = (self.initial_ms as f64 * self.factor.max(1.0).powi(exponent)).min(self.max_ms as f64);
        (ceiling * jitter.clamp(0.0, 1.0)) as u64
    }
}

/// The part of a policy that settings give. What it leaves out comes from the policy beneath.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPatch {
    /// See [`RetryPolicy::max_attempts`].
    pub max_attempts: Option<u32>,
    /// See [`RetryPolicy::initial_ms`].
    pub initial_ms: Option<u64>,
    /// See [`RetryPolicy::factor`].
    pub factor: Option<f64>,
    /// See [`RetryPolicy::max_ms`].
    pub max_ms: Option<u64>,
}

/// The longest pause that settings may give, in milliseconds: 30 days.
pub const MAX_PAUSE_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

impl RetryPatch {
    /// Checks the values that are given.
    ///
    /// # Errors
    /// The first key with a wrong value, and the values that are valid.
    pub fn check(&self) -> Result<(), String> {
        let pause = |name: &str, ms: Option<u64>| match ms.filter(|ms| *ms > MAX_PAUSE_MS) {
            Some(_) => Err(format!("{name} must be at most {MAX_PAUSE_MS} (30 days)")),
            None => Ok(()),
        };
        if self.max_attempts == Some(0) {
            return Err("max_attempts must be at least 1".into());
        }
        if self.factor.is_some_and(|factor| !factor.is_finite() || factor < 1.0) {
            return Err("factor must be a number that is at least 1".into());
        }
        pause("initial_ms", self.initial_ms)?;
        pause("max_ms", self.max_ms)
    }

    /// Returns the policy beneath with the values of this patch in place of its own.
    pub fn over(&self, beneath: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(beneath.max_attempts).max(1),
            initial_ms: self.initial_ms.unwrap_or(beneath.initial_ms),
            factor: self.factor.filter(|factor| factor.is_finite()).unwrap_or(beneath.factor).max(1.0),
            max_ms: self.max_ms.unwrap_or(beneath.max_ms),
        }
    }
}

/// The policy of each class that is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicies {
    /// The handler asked for another attempt.
    pub retry: RetryPolicy,
    /// The handler trapped, panicked or exited.
    pub trap: RetryPolicy,
    /// The attempt used up its wall or CPU time.
    pub timeout: RetryPolicy,
    /// The handler reached a memory, table, stack or host-call limit; 2 attempts by default.
    pub limit: RetryPolicy,
    /// No plugin handles the type.
    pub no_handler: RetryPolicy,
}

impl Default for RetryPolicies {
    fn default() -> Self {
        Self::from_base(RetryPolicy::default())
    }
}

impl RetryPolicies {
    /// Gives every class this policy, but `limit` 2 attempts: a handler that reached a limit once reaches it again.
    pub fn from_base(base: RetryPolicy) -> Self {
        let limit = RetryPolicy { max_attempts: base.max_attempts.min(2), ..base };
        Self { retry: base, trap: base, timeout: base, limit, no_handler: base }
    }

    /// Returns the policy of a class; `None` for classes that are not tried again by a policy.
    pub fn get(&self, class: FailureClass) -> Option<&RetryPolicy> {
        match class {
            FailureClass::Retry => Some(&self.retry),
            FailureClass::Trap => Some(&self.trap),
            FailureClass::Timeout => Some(&self.timeout),
            FailureClass::Limit => Some(&self.limit),
            FailureClass::NoHandler => Some(&self.no_handler),
            FailureClass::Reject | FailureClass::Output | FailureClass::Crash | FailureClass::BadEntry => None,
        }
    }

    /// Patches the policy of one class. Does nothing for a class without a policy.
    pub fn patch(&mut self, class: FailureClass, patch: &RetryPatch) {
        let policy = match class {
            FailureClass::Retry => &mut self.retry,
            FailureClass::Trap => &mut self.trap,
            FailureClass::Timeout => &mut self.timeout,
            FailureClass::Limit => &mut self.limit,
            FailureClass::NoHandler => &mut self.no_handler,
            FailureClass::Reject | FailureClass::Output | FailureClass::Crash | FailureClass::BadEntry => return,
        };
        *policy = patch.over(*policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_is_named() {
        let patch = RetryPatch::default();
        assert_eq!(patch.check(), Ok(()));
        for (wrong, key) in [
            (RetryPatch { max_attempts: Some(0), ..patch }, "max_attempts"),
            (RetryPatch { factor: Some(0.1), ..patch }, "factor"),
            (RetryPatch { factor: Some(f64::INFINITY), ..patch }, "factor"),
            (RetryPatch { initial_ms: Some(MAX_PAUSE_MS + 1), ..patch }, "initial_ms"),
            (RetryPatch { max_ms: Some(u64::MAX), ..patch }, "max_ms"),
        ] {
            assert!(wrong.check().unwrap_err().starts_with(key), "{key}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_maximum_and_spread_by_jitter() {
        let policy = RetryPolicy::default();
        for (failures, jitter, expected_ms) in [
            (1, 1.0, 1_000),
            (2, 1.0, 2_000),
            (4, 1.0, 8_000),
            (9, 1.0, 256_000),
            (10, 1.0, 300_000),
            (u32::MAX, 1.0, 300_000),
            (1, 0.5, 500),
            (1, 0.0, 0),
            (1, f64::INFINITY, 1_000),
        ] {
            assert_eq!(policy.pause_ms(failures, jitter), expected_ms, "failure {failures}, jitter {jitter}");
        }
    }

    #[test]
    fn a_patch_cannot_make_a_policy_impossible() {
        let patch = RetryPatch { max_attempts: Some(0), factor: Some(f64::NAN), ..RetryPatch::default() };
        assert_eq!(patch.over(RetryPolicy::default()), RetryPolicy { max_attempts: 1, ..RetryPolicy::default() });
    }
}
