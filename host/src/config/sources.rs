//! Where settings come from.

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
        f.debug_struct("Sources").field("file", &self.file).field("flags", &self.flags).finish_non_exhaustive()
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
        f.debug_struct("Flag").field("key", &self.key).field("flag", &self.flag).finish_non_exhaustive()
    }
}
