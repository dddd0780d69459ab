//! Loads a [`Config`] from its sources.

use std::fmt;
use std::path::{Path, PathBuf};

use super::draft::ConfigDraft;
use super::error::Error;
use super::settings::Config;
use super::{keys, layers};
use crate::regular_file;

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "eventstream.toml";

/// The sources of settings. `Debug` hides their values, which may be secrets.
#[derive(Clone, Default)]
pub struct ConfigSources {
    /// The named file. Without one, [`DEFAULT_FILE`] in the working directory is read if it exists.
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

impl Config {
    /// Reads all sources and checks the configuration.
    ///
    /// # Errors
    /// The file cannot be read, or a setting in one of the sources is wrong. Trying again does not help.
    pub fn load(sources: &ConfigSources) -> Result<Self, Error> {
        let path = sources.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let text = match regular_file::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && sources.file.is_none() => None,
            Err(error) => return Err(Error::Unreadable { path, error }),
        };
        // Some editors write a byte order mark at the start of a file.
        let text = text.as_deref().map(|text| text.strip_prefix('\u{feff}').unwrap_or(text));
        Self::from_layers(text.map(|text| (path.as_path(), text)), &sources.environment, &sources.flags)
    }

    /// Builds the configuration from these sources. It reads nothing itself.
    ///
    /// # Errors
    /// Everything that is wrong in the sources.
    pub fn from_layers(
        file: Option<(&Path, &str)>,
        environment: &[(String, String)],
        flags: &[FlagSetting],
    ) -> Result<Self, Error> {
        let mut draft = ConfigDraft::default();
        let mut faults = Vec::new();
        let keys = keys::all();
        if let Some((path, text)) = file {
            layers::apply_file(&mut draft, &keys, path, text, &mut faults);
        }
        layers::apply_environment(&mut draft, &keys, environment, &mut faults);
        layers::apply_flags(&mut draft, &keys, flags, &mut faults);
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        draft.finish().map_err(Error::Invalid)
    }
}
