//! Loading one file at a time, without a directory and without a broker, for `plugin check` and `plugin run`.
//!
//! A file goes through the same steps as in a server, so it gets the same messages.

use std::collections::BTreeMap;
use std::path::Path;

use super::component::file;
use super::component::load_error::LoadError;
use super::component::loader::PluginLoader;
use super::settings::{InvalidSettings, PluginSettings};
use super::{Plugin, RegistryError, RegistryOptions};
use crate::regular_file;

/// How many attempts run side by side.
const ATTEMPTS: usize = 1;

/// A sandbox for files that are examined one after another.
pub struct InspectionSandbox {
    options: RegistryOptions,
    loader: PluginLoader,
}

impl InspectionSandbox {
    /// Sets the sandbox up. The directory and the times of the options are not used.
    ///
    /// # Errors
    /// [`RegistryError::Sandbox`].
    pub fn open(options: RegistryOptions) -> Result<Self, RegistryError> {
        let loader = PluginLoader::start(&options, ATTEMPTS, 1)?;
        Ok(Self { options, loader })
    }

    /// Reads a file of settings. The settings take effect only if they are passed to [`InspectionSandbox::load`].
    ///
    /// # Errors
    /// [`LoadError::Settings`].
    pub async fn read_settings(&self, file: &Path) -> Result<PluginSettings, LoadError> {
        let path = file.to_owned();
        let read = move || {
            let text = regular_file::read_to_string(&path)
                .map_err(|error| InvalidSettings::unreadable(&path.display().to_string(), &error))?;
            Ok(PluginSettings::parse(&text).map_err(|error| error.in_file(&path))?)
        };
        self.loader.runtime.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))
    }

    /// Loads a file as a server with these settings would. A settings file beside it is not read: whoever examines a
    /// component has not agreed to the settings that came with it. `config` replaces the table of that name.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn load(
        &self,
        path: &Path,
        settings: Option<&PluginSettings>,
        config: Option<BTreeMap<String, String>>,
    ) -> Result<Plugin, LoadError> {
        let name = path.file_stem().and_then(|name| name.to_str()).ok_or(LoadError::Name)?.to_owned();
        let defaults = self.options.settings.get(&name).cloned().unwrap_or_default();
        let mut settings = settings.cloned().unwrap_or_default().over(&defaults);
        let (path, limit_bytes) = (path.to_owned(), self.loader.max_file_bytes);
        let read = move || file::read(&path, limit_bytes);
        let contents = self.loader.runtime.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))?;
        settings.config = config.or(settings.config);
        self.loader.load(&name, contents, settings).await
    }
}

impl std::fmt::Debug for InspectionSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InspectionSandbox").field("limits", &self.options.limits).finish_non_exhaustive()
    }
}
