//! The retry policies of a plugin as its settings give them.

use serde::Deserialize;

use super::invalid::InvalidSettings;
use crate::event::{FailureClass, RetryPatch, RetryPolicies};

/// The retry policies that are set: for all classes, and for each one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetrySettings {
    /// See [`crate::event::RetryPolicy::max_attempts`].
    pub max_attempts: Option<u32>,
    /// See [`crate::event::RetryPolicy::initial_ms`].
    pub initial_ms: Option<u64>,
    /// See [`crate::event::RetryPolicy::factor`].
    pub factor: Option<f64>,
    /// See [`crate::event::RetryPolicy::max_ms`].
    pub max_ms: Option<u64>,
    /// For `retry` answers.
    pub retry: Option<RetryPatch>,
    /// For traps, panics, exits.
    pub trap: Option<RetryPatch>,
    /// For time that was over.
    pub timeout: Option<RetryPatch>,
    /// For other limits.
    pub limit: Option<RetryPatch>,
}

impl RetrySettings {
    /// These policies with the settings applied: first those for all classes, then those for one class. Settings for all
    /// classes never raise the attempts of the class `limit`, which has few of them on purpose.
    pub fn over(&self, mut policies: RetryPolicies) -> RetryPolicies {
        let all = self.all();
        let limit_attempts = policies.limit.max_attempts;
        for class in [FailureClass::Retry, FailureClass::Trap, FailureClass::Timeout, FailureClass::Limit] {
            policies.patch(class, &all);
        }
        policies.limit.max_attempts = policies.limit.max_attempts.min(limit_attempts);
        for (class, patch) in [
            (FailureClass::Retry, self.retry),
            (FailureClass::Trap, self.trap),
            (FailureClass::Timeout, self.timeout),
            (FailureClass::Limit, self.limit),
        ] {
            policies.patch(class, &patch.unwrap_or_default());
        }
        policies
    }

    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        let classes =
            [("retry.", self.retry), ("trap.", self.trap), ("timeout.", self.timeout), ("limit.", self.limit)];
        let classes = classes.map(|(place, patch)| (place, patch.unwrap_or_default()));
        for (place, patch) in [("", self.all())].into_iter().chain(classes) {
            patch.check().map_err(|words| InvalidSettings::new(format!("retry.{place}{words}")))?;
        }
        Ok(())
    }

    fn all(&self) -> RetryPatch {
        RetryPatch {
            max_attempts: self.max_attempts,
            initial_ms: self.initial_ms,
            factor: self.factor,
            max_ms: self.max_ms,
        }
    }

    /// These settings, and those of `defaults` where none is set.
    pub(super) fn or(self, defaults: &Self) -> Self {
        Self {
            max_attempts: self.max_attempts.or(defaults.max_attempts),
            initial_ms: self.initial_ms.or(defaults.initial_ms),
            factor: self.factor.or(defaults.factor),
            max_ms: self.max_ms.or(defaults.max_ms),
            retry: self.retry.or(defaults.retry),
            trap: self.trap.or(defaults.trap),
            timeout: self.timeout.or(defaults.timeout),
            limit: self.limit.or(defaults.limit),
        }
    }
}
