//! Where settings come from, and what is wrong with them in words for the person who corrects it.

use std::fmt;
use std::path::PathBuf;

/// The sources of settings. `Debug` hides their values, which may be secrets.
#[derive(Clone, Default)]
pub struct ConfigSources {
    /// The named file. Without one, [`DEFAULT_FILE`](super::DEFAULT_FILE) in the working directory is read if it exists.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// The settings on the command line.
    pub flags: Vec<FlagSetting>,
}

impl fmt::Debug for ConfigSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigSources").field("file", &self.file).field("flags", &self.flags).finish_non_exhaustive()
    }
}

/// A setting on the command line. `Debug` hides its value, which may be a secret.
#[derive(Clone)]
pub struct FlagSetting {
    /// The setting, such as `server.listen`.
    pub key: &'static str,
    /// The flag, such as `--listen`.
    pub flag: &'static str,
    /// The value of the flag.
    pub value: String,
}

impl fmt::Debug for FlagSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlagSetting").field("key", &self.key).field("flag", &self.flag).finish_non_exhaustive()
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("the configuration file {path:?} cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: std::io::Error,
    },
    /// Settings are wrong.
    #[error("{}", join_lines(.0))]
    Invalid(Vec<ConfigFault>),
}

/// One thing that is wrong, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// A flag, a variable of the environment, or a file with a line.
    pub place: String,
    /// What is wrong there, and what is valid.
    pub message: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

fn join_lines(faults: &[ConfigFault]) -> String {
    faults.iter().map(ConfigFault::to_string).collect::<Vec<_>>().join("\n")
}
