//! The classes of failure.

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

impl FailureClass {
    /// Every class, in the order in which documents list them.
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

    /// The class as text, the same everywhere.
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
