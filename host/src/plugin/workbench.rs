//! One file at a time, without a directory and without a broker: what `plugin check` and `plugin run` work with.
//!
//! A file goes through the very steps that a server takes it through, so that what is said here is what a server says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use super::load::{self, LoadError, Loader};
use super::settings::{InvalidSettings, Settings};
use super::{Error, Options, Plugin};

/// Attempts side by side.
const ATTEMPTS: usize = 1;

/// A sandbox for files that are looked at one after the other.
pub struct Workbench {
    options: Options,
    loader: Loader,
}

impl Workbench {
    /// Sets the sandbox up. Of the options, the directory and the times are not used.
    ///
    /// # Errors
    /// [`Error::Sandbox`].
    pub fn open(options: Options) -> Result<Self, Error> {
        let loader = Loader::start(&options, ATTEMPTS, 1)?;
        Ok(Self { options, loader })
    }

    /// Loads a file as a server would that finds it in its directory, with the settings in the file `settings` or, without
    /// one, in `NAME.toml` beside it; `config` goes before the table of that name in it.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn load(
        &self,
        path: &Path,
        settings: Option<&Path>,
        config: Option<BTreeMap<String, String>>,
    ) -> Result<Plugin, LoadError> {
        let name = path.file_stem().and_then(|name| name.to_str()).ok_or(LoadError::Name)?.to_owned();
        let beside = path.with_extension("toml");
        let settings = settings.or_else(|| beside.is_file().then_some(beside.as_path())).map(Path::to_owned);
        let beneath = self.options.settings.get(&name).cloned().unwrap_or_default();
        let (path, limit_bytes) = (path.to_owned(), self.loader.max_file_bytes);
        let read = move || {
            let contents = load::read_file(File::open(path)?, limit_bytes)?;
            let settings = match settings {
                None => beneath,
                Some(settings) => {
                    let text = fs::read_to_string(&settings)
                        .map_err(|error| InvalidSettings::unread(&settings.display().to_string(), &error))?;
                    Settings::parse(&text).map_err(|error| error.in_file(&settings))?.over(&beneath)
                }
            };
            Ok::<_, LoadError>((contents, settings))
        };
        let (contents, mut settings) =
            self.loader.machine.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))?;
        settings.config = config.or(settings.config);
        self.loader.load(&name, contents, settings).await
    }
}

impl std::fmt::Debug for Workbench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workbench").field("limits", &self.options.limits).finish_non_exhaustive()
    }
}
