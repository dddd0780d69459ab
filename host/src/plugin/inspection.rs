//! One file at a time, without a directory and without a broker: what `plugin check` and `plugin run` work with.
//!
//! A file goes through the very steps that a server takes it through, so that what is said here is what a server says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use super::component::load_error::LoadError;
use super::component::loader;
use super::component::loader::PluginLoader;
use super::settings::{InvalidSettings, PluginSettings};
use super::{Error, Plugin, RegistryOptions};

/// Attempts side by side.
const ATTEMPTS: usize = 1;

/// A sandbox for files that are looked at one after the other.
pub struct InspectionSandbox {
    options: RegistryOptions,
    loader: PluginLoader,
}

impl InspectionSandbox {
    /// Sets the sandbox up. Of the options, the directory and the times are not used.
    ///
    /// # Errors
    /// [`Error::Sandbox`].
    pub fn open(options: RegistryOptions) -> Result<Self, Error> {
        let loader = PluginLoader::start(&options, ATTEMPTS, 1)?;
        Ok(Self { options, loader })
    }

    /// Reads a file of settings, and takes for granted nothing of what it says.
    ///
    /// # Errors
    /// [`LoadError::Settings`].
    pub async fn read_settings(&self, file: &Path) -> Result<PluginSettings, LoadError> {
        let file = file.to_owned();
        let read = move || {
            let text = fs::read_to_string(&file)
                .map_err(|error| InvalidSettings::unread(&file.display().to_string(), &error))?;
            Ok(PluginSettings::parse(&text).map_err(|error| error.in_file(&file))?)
        };
        self.loader.machine.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))
    }

    /// Loads a file as a server would that finds it in its directory with these settings. Those in a file beside it are
    /// not read: who looks at a file has not agreed to what came with it. `config` goes before the table of that name.
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
        let beneath = self.options.settings.get(&name).cloned().unwrap_or_default();
        let mut settings = settings.cloned().unwrap_or_default().over(&beneath);
        let (path, limit_bytes) = (path.to_owned(), self.loader.max_file_bytes);
        let read = move || loader::read_file(File::open(path)?, limit_bytes);
        let contents = self.loader.machine.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))?;
        settings.config = config.or(settings.config);
        self.loader.load(&name, contents, settings).await
    }
}

impl std::fmt::Debug for InspectionSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workbench").field("limits", &self.options.limits).finish_non_exhaustive()
    }
}
