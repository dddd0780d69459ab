//! Loads a [`Config`] from its sources.

use std::path::{Path, PathBuf};

use super::layers::SettingsLayers;
use super::settings::Config;
use super::sources::{ConfigSources, Error, FlagSetting};
use crate::regular_file;

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "eventstream.toml";

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
        let mut layers = SettingsLayers::default();
        if let Some((path, text)) = file {
            layers.apply_file(path, text);
        }
        layers.apply_environment(environment);
        layers.apply_flags(flags);
        layers.finish().map_err(Error::Invalid)
    }
}
