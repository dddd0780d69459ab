//! From a file to a plugin: compile, check, make a first instance, ask it for its types.
//!
//! Each step may refuse the file with a reason and a remedy. The loader changes nothing that serves: the registry replaces a
//! version once the new one has passed every step.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use super::compile::Compiler;
use super::file::FileContents;
use super::fit;
use super::introduction::{CheckedManifest, describe, introduce};
use super::load_error::LoadError;
use super::load_tracks::{LoadTicket, LoadTracks};
use crate::clock;
use crate::event::{RetryPolicies, is_plugin_name};
use crate::plugin::AttemptLimits;
use crate::plugin::data_dir::PluginDataDir;
use crate::plugin::host_api::{HostContext, HttpNetwork, SharedNetwork};
use crate::plugin::run::executor::GuestExecutor;
use crate::plugin::run::instance::PreparedComponent;
use crate::plugin::run::plugin::GuestRuntime;
use crate::plugin::run::plugin::Plugin;
use crate::plugin::sandbox::Sandbox;
use crate::plugin::sandbox::capacity::InstanceCapacity;
use crate::plugin::sandbox::memory_image;
use crate::plugin::sandbox::ticker::EpochTicker;
use crate::plugin::settings::PluginSettings;
use crate::plugin::settings::secrets::PluginSecrets;
use crate::plugin::{RegistryError, RegistryOptions, ReusePolicy};

/// Makes plugins of files.
pub(in crate::plugin) struct PluginLoader {
    pub(in crate::plugin) sandbox: Arc<Sandbox>,
    pub(in crate::plugin) runtime: Arc<GuestRuntime>,
    pub(in crate::plugin) max_file_bytes: u64,
    /// `None` if nothing is kept for the next start.
    pub(in crate::plugin) data_dir: Option<Arc<PluginDataDir>>,
    limits: AttemptLimits,
    policies: RetryPolicies,
    compiler: Compiler,
    network: SharedNetwork,
}

impl PluginLoader {
    /// Sets up a sandbox for `attempts` attempts side by side, or as many as there is room for, on `threads` threads. The
    /// loader has no data directory.
    ///
    /// # Errors
    /// [`RegistryError::Sandbox`].
    pub(in crate::plugin) fn start(
        options: &RegistryOptions,
        attempts: usize,
        threads: usize,
    ) -> Result<Self, RegistryError> {
        let failed = |reason: String| RegistryError::Sandbox { reason };
        let sandbox = Sandbox::start(InstanceCapacity::of(attempts), options.stack_bytes);
        let sandbox = Arc::new(sandbox.map_err(|error| failed(format!("{error:#}")))?);
        let runtime = GuestRuntime {
            executor: GuestExecutor::start(threads).map_err(|error| failed(error.to_string()))?,
            ticker: EpochTicker::start(&sandbox.engine).map_err(|error| failed(error.to_string()))?,
            attempts: Arc::new(Semaphore::new(sandbox.capacity.running)),
            tracks: LoadTracks::default(),
        };
        let io = runtime.executor.io().cloned().ok_or_else(|| failed("no runtime for connections".into()))?;
        let network = SharedNetwork::new(io, options.resolve.clone(), options.listeners.clone().into());
        Ok(Self {
            sandbox,
            runtime: Arc::new(runtime),
            limits: options.limits,
            policies: options.policies.clone(),
            max_file_bytes: options.max_file_bytes,
            compiler: options.compiler.clone(),
            data_dir: None,
            network,
        })
    }

    /// Makes a plugin of an earlier version, or of a file outside of a plugin directory.
    ///
    /// # Errors
    /// See [`LoadError`]. Dropping the future is safe.
    pub(in crate::plugin) async fn load(
        &self,
        name: &str,
        file: FileContents,
        settings: PluginSettings,
    ) -> Result<Plugin, LoadError> {
        let mut ticket = self.runtime.tracks.ticket(name, true, file.bytes.len() as u64);
        self.load_file(name, file, settings, None, &mut ticket).await.map(|(plugin, _)| plugin)
    }

    /// Makes a plugin of a file, and returns the file's bytes too. `compiled` is the component if it is compiled already.
    ///
    /// # Errors
    /// See [`LoadError`]. Dropping the future is safe.
    pub(in crate::plugin) async fn load_file(
        &self,
        name: &str,
        file: FileContents,
        settings: PluginSettings,
        compiled: Option<Component>,
        ticket: &mut LoadTicket,
    ) -> Result<(Plugin, Bytes), LoadError> {
        self.load_steps(name, file, settings, compiled, ticket).await.map_err(LoadError::shorten)
    }

    async fn load_steps(
        &self,
        name: &str,
        file: FileContents,
        settings: PluginSettings,
        compiled: Option<Component>,
        ticket: &mut LoadTicket,
    ) -> Result<(Plugin, Bytes), LoadError> {
        if !is_plugin_name(name) {
            return Err(LoadError::Name);
        }
        let limits = settings.limits.over(self.limits);
        let policies = settings.retry.over(self.policies.clone());
        let given = settings.clone();
        let sources = settings.secrets.unwrap_or_default();
        let secrets = self.runtime.executor.run_blocking(move || PluginSecrets::read(&sources)).await;
        let secrets = Arc::new(secrets.ok_or(LoadError::Host)??);
        let granted = settings.grants.http.unwrap_or_default();
        let network = HttpNetwork::new(name, granted, limits, secrets.clone(), &self.network);
        let context = Arc::new(HostContext {
            name: name.to_owned(),
            limits,
            max_attempts: policies.retry.max_attempts,
            config: settings.config.unwrap_or_default(),
            secrets: secrets.clone(),
            network: Arc::new(network),
        });
        let size_bytes = file.bytes.len() as u64;
        let digest = file.digest.clone();
        let (component, bytes) = match compiled {
            Some(component) => (component, file.bytes),
            None => {
                let engine = &self.sandbox.engine;
                self.compiler.compile(engine, &self.runtime, self.data_dir.as_ref(), file, ticket).await?
            }
        };
        let prepared = Arc::new(self.prepare(component, context, settings.reuse).await?);
        let manifest = introduce(&self.runtime, name, prepared.clone(), ticket).await?;
        let CheckedManifest { patterns, version, description } = describe(name, settings.types, manifest, &secrets)?;
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
            runtime: self.runtime.clone(),
        };
        Ok((plugin, bytes))
    }

    async fn prepare(
        &self,
        component: Component,
        context: Arc<HostContext>,
        reuse: Option<ReusePolicy>,
    ) -> Result<PreparedComponent, LoadError> {
        let sandbox = self.sandbox.clone();
        let work = move || {
            memory_image::prepare_image(&component)?;
            let fit =
                fit::check(&component, &sandbox.linker, context.limits.memory_bytes).map_err(LoadError::Misfits)?;
            Ok(PreparedComponent::new(fit, &sandbox, context, reuse))
        };
        self.runtime.executor.run_blocking(work).await.unwrap_or(Err(LoadError::Host))
    }
}
