//! One file at a time, without a directory and without a broker: what `plugin check` and `plugin run` work with.
//!
//! A file goes through the very steps that a server takes it through, so that what is said here is what a server says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::engine::{self, Ticker};
use super::executor::Executor;
use super::load::{self, LoadError, Loader};
use super::loaded::Machine;
use super::settings::Settings;
use super::{Error, Options, Plugin, host};

/// Instances side by side: one that handles and one to spare.
const SLOTS: u32 = 2;

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
        let sandbox = |reason: String| Error::Sandbox { slots: SLOTS as usize, reason };
        let engine = engine::build(SLOTS, options.stack_bytes).map_err(|error| sandbox(format!("{error:#}")))?;
        let linker = host::linker(&engine).map_err(|error| sandbox(format!("{error:#}")))?;
        let machine = Machine {
            executor: Executor::start(1).map_err(|error| sandbox(error.to_string()))?,
            ticker: Ticker::start(&engine).map_err(|error| sandbox(error.to_string()))?,
            slots: Arc::new(Semaphore::new(SLOTS as usize)),
        };
        let outside = host::Shared {
            runtime: machine.executor.io().cloned().ok_or_else(|| sandbox("no runtime for connections".into()))?,
            roots: Arc::default(),
            resolve: Arc::new(options.resolve.clone()),
        };
        let loader = Loader {
            engine,
            linker: Arc::new(linker),
            machine: Arc::new(machine),
            limits: options.limits,
            policies: options.policies.clone(),
            max_file_bytes: options.max_file_bytes,
            compiler: options.compiler.clone(),
            kept: None,
            outside,
        };
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
            let contents = load::read(File::open(path)?, limit_bytes)?;
            let settings = match settings {
                None => beneath,
                Some(settings) => Settings::parse(&fs::read_to_string(settings)?)?.over(&beneath),
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
