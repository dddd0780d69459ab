//! The exit codes of the program.

use std::process::ExitCode;

use eventstream::app;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitReason {
    /// Done.
    Done = 0,
    /// The command failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The broker cannot be reached, or the server for commands that talk to one.
    Unreachable = 3,
    /// The file is not a plugin.
    Invalid = 4,
}

impl ExitReason {
    /// Returns the exit code for an error of the server or of a command on a store.
    pub(super) fn from_error(error: &app::Error) -> Self {
        match error {
            app::Error::Unreachable(_) => Self::Unreachable,
            app::Error::Refused(_) => Self::Usage,
            app::Error::Failed(_) => Self::Failed,
        }
    }
}

impl From<ExitReason> for ExitCode {
    fn from(exit: ExitReason) -> Self {
        Self::from(exit as u8)
    }
}
