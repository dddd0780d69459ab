//! The one place where things are put together.

use std::fmt;

use crate::config::Config;

/// A fact that a person who starts the program needs, as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact(pub String);

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the program could not start, or had to end. Each has an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The broker, as it is set up, must not be served with; a person has to act.
    #[error("{0}")]
    Refused(String),
    /// The plugins cannot be served.
    #[error("{0}")]
    Plugin(String),
    /// Anything else.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Serves until it is told to stop.
///
/// # Errors
/// What it needs is not there, or something without which it makes no sense has failed.
pub async fn run(config: Config, mut announce: impl FnMut(&Fact)) -> Result<(), Error> {
    announce(&Fact(format!("would listen on http://{}", config.server.listen)));
    Err(Error::Failed(anyhow::anyhow!("the parts are not put together yet")))
}
