//! From a file to a plugin: read, compile, check, try, ask.
//!
//! Each step is refused with what is wrong and what to do about it. Nothing here changes what serves; the registry swaps
//! once a version has passed every step.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use super::compile_tracks::{CompilePassage, CompileTracks};
use super::fit;
use super::load_error::LoadError;
use crate::clock;
use crate::event::RetryPolicies;
use crate::plugin::data_dir::PluginDataDir;
use crate::plugin::host_api::{DenialLog, HostContext, HttpNetwork, SharedNetwork};
use crate::plugin::run::executor::GuestExecutor;
use crate::plugin::run::guest_runtime::GuestRuntime;
use crate::plugin::run::instance::PreparedComponent;
use crate::plugin::run::plugin::Plugin;
use crate::plugin::sandbox::Sandbox;
use crate::plugin::sandbox::capacity::InstanceCapacity;
use crate::plugin::sandbox::limits::AttemptLimits;
use crate::plugin::sandbox::memory_image;
use crate::plugin::sandbox::ticker::EpochTicker;
use crate::plugin::settings::PluginSettings;
use crate::plugin::settings::secrets::PluginSecrets;
use crate::plugin::{Compiler, Error, RegistryOptions, ReusePolicy};

use super::introduction::{PluginDescription, described};

/// A file's bytes and their digest.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct FileContents {
    pub(in crate::plugin) bytes: Bytes,
    pub(in crate::plugin) digest: String,
    pub(in crate::plugin) origin: FileOrigin,
}

/// Where bytes came from, so that they need not be kept while they wait.
#[derive(Clone, Debug)]
pub(in crate::plugin) enum FileOrigin {
    /// From nowhere that could be read again.
    Given,
    /// From a file of at most so many bytes.
    File(PathBuf, u64),
    /// From the earlier versions of a plugin.
    Version(String),
}

impl FileOrigin {
    /// The bytes with this digest once more. Blocks.
    ///
    /// # Errors
    /// [`LoadError::Changed`] if other bytes are there now.
    pub(in crate::plugin) fn read_again(&self, digest: &str, kept: Option<&PluginDataDir>) -> Result<Bytes, LoadError> {
        let contents = match self {
            Self::Given => None,
            Self::File(path, limit_bytes) => Some(read(path, *limit_bytes)?),
            Self::Version(name) => kept.map(|kept| kept.history.read(name, digest)).transpose()?,
        };
        contents.filter(|contents| contents.digest == digest).map(|contents| contents.bytes).ok_or(LoadError::Changed)
    }
}

/// What loading needs.
pub(in crate::plugin) struct PluginLoader {
    pub(in crate::plugin) sandbox: Arc<Sandbox>,
    pub(in crate::plugin) machine: Arc<GuestRuntime>,
    pub(in crate::plugin) limits: AttemptLimits,
    pub(in crate::plugin) policies: RetryPolicies,
    pub(in crate::plugin) max_file_bytes: u64,
    pub(in crate::plugin) compiler: Compiler,
    pub(in crate::plugin) kept: Option<Arc<PluginDataDir>>,
    pub(in crate::plugin) outside: SharedNetwork,
}

/// Opens a file of a directory that others write to: no device, and never waiting for the other end of a pipe. Blocks
/// otherwise.
///
/// # Errors
/// Those of the system; or it is no regular file.
pub(in crate::plugin) fn open_regular(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    // It may be another one by now.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Reads a regular file of at most `limit_bytes`, whatever its size is said to be. Blocks.
pub(in crate::plugin) fn read(path: &Path, limit_bytes: u64) -> Result<FileContents, LoadError> {
    let contents = read_file(open_regular(path)?, limit_bytes)?;
    Ok(FileContents { origin: FileOrigin::File(path.to_owned(), limit_bytes), ..contents })
}

/// Reads what was opened, of at most `limit_bytes`. Blocks.
pub(in crate::plugin) fn read_file(file: File, limit_bytes: u64) -> Result<FileContents, LoadError> {
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(LoadError::TooLarge { limit_bytes });
    }
    Ok(contents(Bytes::from(bytes)))
}

/// Bytes with their digest.
pub(in crate::plugin) fn contents(bytes: Bytes) -> FileContents {
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    FileContents { bytes, digest, origin: FileOrigin::Given }
}

impl PluginLoader {
    /// Sets a sandbox up in which so many attempts run side by side, or as many as there is room for, on so many threads.
    /// Nothing is kept of what it loads.
    ///
    /// # Errors
    /// [`Error::Sandbox`].
    pub(in crate::plugin) fn start(options: &RegistryOptions, attempts: usize, threads: usize) -> Result<Self, Error> {
        let sandbox = |reason: String| Error::Sandbox { reason };
        let place = Sandbox::start(InstanceCapacity::of(attempts), options.stack_bytes);
        let place = Arc::new(place.map_err(|error| sandbox(format!("{error:#}")))?);
        let machine = GuestRuntime {
            executor: GuestExecutor::start(threads).map_err(|error| sandbox(error.to_string()))?,
            ticker: EpochTicker::start(&place.engine).map_err(|error| sandbox(error.to_string()))?,
            attempts: Arc::new(Semaphore::new(place.capacity.attempts)),
            lanes: CompileTracks::default(),
        };
        let outside = SharedNetwork {
            runtime: machine.executor.io().cloned().ok_or_else(|| sandbox("no runtime for connections".into()))?,
            roots: Arc::default(),
            resolve: Arc::new(options.resolve.clone()),
            quotas: Arc::default(),
            own: options.listeners.clone().into(),
        };
        Ok(Self {
            sandbox: place,
            machine: Arc::new(machine),
            limits: options.limits,
            policies: options.policies.clone(),
            max_file_bytes: options.max_file_bytes,
            compiler: options.compiler.clone(),
            kept: None,
            outside,
        })
    }

    /// Makes a plugin of bytes that are no new file: a version that served before, or a file by itself.
    ///
    /// # Errors
    /// See [`LoadError`]. Dropping the future harms nothing.
    pub(in crate::plugin) async fn load(
        &self,
        name: &str,
        file: FileContents,
        settings: PluginSettings,
    ) -> Result<Plugin, LoadError> {
        let mut passage = self.machine.lanes.passage(name, true, file.bytes.len() as u64);
        self.load_file(name, file, settings, None, &mut passage).await.map(|(plugin, _)| plugin)
    }

    /// Makes a plugin of a file's bytes, which it gives back. The file may be compiled already.
    ///
    /// # Errors
    /// See [`LoadError`]. Dropping the future harms nothing.
    pub(in crate::plugin) async fn load_file(
        &self,
        name: &str,
        file: FileContents,
        settings: PluginSettings,
        compiled: Option<Component>,
        passage: &mut CompilePassage,
    ) -> Result<(Plugin, Bytes), LoadError> {
        self.pass(name, file, settings, compiled, passage).await.map_err(LoadError::shortened)
    }

    async fn pass(
        &self,
        name: &str,
        file: FileContents,
        settings: PluginSettings,
        compiled: Option<Component>,
        passage: &mut CompilePassage,
    ) -> Result<(Plugin, Bytes), LoadError> {
        if !crate::plugin::is_name(name) {
            return Err(LoadError::Name);
        }
        let limits = settings.limits.over(self.limits);
        let policies = settings.retry.over(self.policies.clone());
        let given = settings.clone();
        let sources = settings.secrets.unwrap_or_default();
        let secrets = self.machine.executor.run_blocking(move || PluginSecrets::read(&sources)).await;
        let secrets = Arc::new(secrets.ok_or(LoadError::Host)??);
        let denials = Arc::<DenialLog>::default();
        let granted = settings.grants.http.unwrap_or_default();
        let network = HttpNetwork::new(name, granted, limits, (denials.clone(), secrets.clone()), &self.outside);
        let surroundings = Arc::new(HostContext {
            name: name.to_owned(),
            limits,
            max_attempts: policies.retry.max_attempts,
            config: settings.config.unwrap_or_default(),
            secrets: secrets.clone(),
            denials,
            network: Arc::new(network),
        });
        let size_bytes = file.bytes.len() as u64;
        let digest = file.digest.clone();
        let (component, bytes) = match compiled {
            Some(component) => (component, file.bytes),
            None => {
                let engine = &self.sandbox.engine;
                self.compiler.compile(engine, &self.machine, self.kept.as_ref(), file, passage).await?
            }
        };
        let prepared = Arc::new(self.prepare(component, surroundings, settings.reuse).await?);
        let introduced = self.introduce(name, prepared.clone(), passage).await?;
        let PluginDescription { patterns, version, description } =
            described(name, settings.types, introduced, &secrets)?;
        let plugin = Plugin {
            name: name.into(),
            digest: digest.into(),
            version,
            description,
            patterns,
            concurrency: settings.concurrency.map(std::num::NonZeroUsize::get),
            max_waiting: settings.max_waiting.map(std::num::NonZeroU64::get),
            policies,
            settings: given,
            size_bytes,
            loaded_at: clock::now(),
            prepared,
            machine: self.machine.clone(),
        };
        Ok((plugin, bytes))
    }

    async fn prepare(
        &self,
        component: Component,
        surroundings: Arc<HostContext>,
        reuse: Option<ReusePolicy>,
    ) -> Result<PreparedComponent, LoadError> {
        let sandbox = self.sandbox.clone();
        let work = move || {
            memory_image::lay_out(&component)?;
            let fit = fit::check(&component, &sandbox.linker, surroundings.limits.memory_bytes)
                .map_err(LoadError::Misfits)?;
            Ok(PreparedComponent::new(fit, &sandbox, surroundings, reuse))
        };
        self.machine.executor.run_blocking(work).await.unwrap_or(Err(LoadError::Host))
    }
}
