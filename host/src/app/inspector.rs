//! Checks a plugin's file without a server: what it is, or why it is not a plugin.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::error::Error;
use super::plugin_options::plugin_options;
use super::trial::PluginTrial;
use crate::config::Config;
use crate::event::EventLimits;
use crate::plugin::{InspectionSandbox, LoadError, Plugin, PluginSettings};

/// A sandbox that loads plugin files, one after the other.
pub struct PluginInspector {
    sandbox: InspectionSandbox,
    limits: EventLimits,
    max_line_bytes: usize,
}

/// A description of a plugin's file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginFacts {
    /// The name that the plugin would have.
    pub name: String,
    /// The version that the plugin states.
    pub version: Option<String>,
    /// The description that the plugin states.
    pub description: Option<String>,
    /// The interface by which it would be called.
    pub dialect: String,
    /// The event types that it would handle.
    pub types: Vec<String>,
    /// The size of the file.
    pub size_bytes: u64,
    /// The SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// The memory that each attempt starts with.
    pub initial_memory_bytes: u64,
    /// The most memory of an attempt.
    pub memory_limit_bytes: u64,
}

impl PluginFacts {
    pub(super) fn of(plugin: &Plugin) -> Self {
        Self {
            name: plugin.name().to_owned(),
            version: plugin.version().map(str::to_owned),
            description: plugin.description().map(str::to_owned),
            dialect: plugin.dialect().interface(),
            types: plugin.patterns().iter().map(ToString::to_string).collect(),
            size_bytes: plugin.size_bytes(),
            digest: plugin.digest().to_owned(),
            imports: plugin.imports(),
            initial_memory_bytes: plugin.initial_memory_bytes(),
            memory_limit_bytes: plugin.limits().memory_bytes,
        }
    }
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

    /// Loads a file as a server would, with these settings. A settings file beside it is not read.
    ///
    /// # Errors
    /// Every fault of the file.
    pub async fn load(&self, path: &Path, settings: Option<&PluginSettings>) -> Result<PluginTrial<'_>, InspectError> {
        self.load_with(path, settings, None).await
    }

    /// As [`Self::load`]; `config` replaces the table `config` of the settings.
    ///
    /// # Errors
    /// Every fault of the file.
    pub async fn load_with(
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
