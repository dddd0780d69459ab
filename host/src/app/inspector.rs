//! Checks a plugin's file without a server: what it is, or why it is not a plugin.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::error::Error;
use super::plugin_options::plugin_options;
use super::trial::PluginTrial;
use crate::config::Config;
use crate::event::EventLimits;
use crate::plugin::{InspectionSandbox, LoadError, PluginSettings};

/// A sandbox that loads plugin files, one after the other.
pub struct PluginInspector {
    sandbox: InspectionSandbox,
    limits: EventLimits,
    max_line_bytes: usize,
}

/// Why a file is not a plugin, in the words of the server.
#[derive(Debug, Serialize)]
pub struct InspectError {
    /// The whole message.
    pub error: String,
    /// Each import and export that does not fit. Holds the message if the fault is another one.
    pub misfits: Vec<String>,
    /// Whether the file or its settings cannot be read, which says nothing about the component.
    #[serde(skip)]
    pub is_usage: bool,
}

impl PluginInspector {
    /// Sets up the sandbox with the limits of the configuration.
    ///
    /// # Errors
    /// A setting is wrong, or the sandbox cannot be set up.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let sandbox = InspectionSandbox::open(plugin_options(config)?).map_err(|error| Error::Failed(error.into()))?;
        let limits =
            EventLimits { max_payload_bytes: config.server.limits.max_payload_bytes, ..EventLimits::default() };
        Ok(Self { sandbox, limits, max_line_bytes: config.server.max_body_bytes })
    }

    /// Reads a file of settings. [`PluginSettings::summary`] lists what they grant.
    ///
    /// # Errors
    /// The file cannot be read, or a setting in it is wrong.
    pub async fn read_settings(&self, file: &Path) -> Result<PluginSettings, InspectError> {
        Ok(self.sandbox.read_settings(file).await?)
    }

    /// Loads a file as a server would, with these settings. `config` replaces their table `config`. A settings file beside it
    /// is not read.
    ///
    /// # Errors
    /// Every fault of the file.
    pub async fn load(
        &self,
        path: &Path,
        settings: Option<&PluginSettings>,
        config: Option<BTreeMap<String, String>>,
    ) -> Result<PluginTrial<'_>, InspectError> {
        let plugin = self.sandbox.load(path, settings, config).await?;
        Ok(PluginTrial::new(plugin, &self.limits))
    }

    /// The largest request, and so the longest line with an event, in bytes.
    pub fn max_line_bytes(&self) -> usize {
        self.max_line_bytes
    }
}

impl From<LoadError> for InspectError {
    fn from(error: LoadError) -> Self {
        let text = error.to_string();
        let is_usage = matches!(error, LoadError::Read(_) | LoadError::Settings(_) | LoadError::Secret(_));
        let misfits = match error {
            LoadError::Misfits(misfits) => misfits,
            _ => vec![text.clone()],
        };
        Self { error: text, misfits, is_usage }
    }
}
