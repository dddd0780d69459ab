//! What a registry needs, how many attempts may run side by side, and why there may be no registry.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::event::RetryPolicies;
use crate::plugin::sandbox::capacity::InstanceCapacity;
use crate::plugin::{AttemptLimits, Compiler, PluginSettings};

/// How the registry notices changes of the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchMethod {
    /// The system notifies the registry, which also scans the directory every few seconds.
    #[default]
    Notify,
    /// The registry only scans the directory every few seconds. For network file systems: they send no notification of a
    /// change that another machine makes.
    Poll,
}

/// What a registry needs.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// The plugin directory.
    pub dir: PathBuf,
    /// Whether to make the directory if it is missing.
    pub may_make_dir: bool,
    /// How many attempts may run side by side. Further attempts wait; they do not fail. A small address space may hold
    /// fewer.
    pub concurrency: usize,
    /// How many attempts of one plugin must be able to run side by side.
    pub plugin_concurrency: usize,
    /// How many attempts may run beyond `concurrency`, one for each plugin of which none runs. So a plugin does not wait
    /// for the slow attempts of others.
    pub reserve: usize,
    /// The limits of a plugin whose settings give no others.
    pub limits: AttemptLimits,
    /// The retry policies of a plugin whose settings give no others.
    pub policies: RetryPolicies,
    /// `[plugins.NAME]` of the configuration. A file `NAME.toml` in the directory takes precedence.
    pub settings: BTreeMap<String, PluginSettings>,
    /// Where this server itself listens. No grant leads there.
    pub listeners: Vec<SocketAddr>,
    /// Addresses of names, in place of those that the resolver of the system gives.
    pub resolve: BTreeMap<String, Vec<IpAddr>>,
    /// The largest file that is loaded.
    pub max_file_bytes: u64,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// The size of a guest's native stack, the same for all plugins.
    pub stack_bytes: usize,
    /// Where compiled code and earlier versions are kept, for the next start and for rollbacks; `None` to keep nothing.
    pub data_dir: Option<PathBuf>,
    /// The most compiled code that is kept, in bytes; 0 to keep none.
    pub cache_max_bytes: u64,
    /// Whether a build waits for an approval if it imports more than the version that serves. Needs a `data_dir`.
    pub hold_new_capabilities: bool,
    /// Whether a build waits for an approval if it takes types from another plugin that serves.
    pub hold_taken_types: bool,
    /// How the registry notices changes of the directory.
    pub watch: WatchMethod,
    /// For how long a file must stay unchanged before it is loaded, in milliseconds.
    pub quiet_ms: u64,
    /// How often the directory is scanned even without a notification, in milliseconds.
    pub rescan_ms: u64,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            dir: PathBuf::from("./plugins"),
            may_make_dir: true,
            concurrency: 2 * cores,
            plugin_concurrency: 1,
            reserve: 256,
            limits: AttemptLimits::default(),
            policies: RetryPolicies::default(),
            settings: BTreeMap::new(),
            listeners: Vec::new(),
            resolve: BTreeMap::new(),
            max_file_bytes: 64 * 1024 * 1024,
            compiler: Compiler::InProcess,
            stack_bytes: 512 * 1024,
            data_dir: None,
            cache_max_bytes: 1024 * 1024 * 1024,
            hold_new_capabilities: false,
            hold_taken_types: true,
            watch: WatchMethod::default(),
            quiet_ms: 500,
            rescan_ms: 5_000,
        }
    }
}

impl RegistryOptions {
    /// How many attempts may run side by side of those that the options ask for. Where there is not room for all of them and
    /// the reserve, half of the room goes to plugins of which no attempt runs.
    ///
    /// # Errors
    /// [`RegistryError::Concurrency`].
    pub(super) fn granted_concurrency(&self, capacity: InstanceCapacity) -> Result<usize, RegistryError> {
        let asked = self.concurrency.max(1);
        let has_room = capacity.running >= asked.saturating_add(self.reserve);
        let granted = if has_room { asked } else { asked.min(capacity.running / 2) };
        if granted < self.plugin_concurrency.min(asked) {
            return Err(RegistryError::Concurrency { wanted: self.plugin_concurrency, most: granted });
        }
        if granted < asked {
            tracing::warn!(
                "the address space of this process has room for {granted} attempts side by side, of all plugins together; \
                 {asked} were asked for"
            );
        }
        Ok(granted)
    }
}

/// Why there is no registry. A retry does not help until a person has acted.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The directory cannot be made or read.
    #[error("the plugin directory {dir:?} cannot be read: {source}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// An option needs a data directory, and there is none that can be used.
    #[error(
        "plugins.hold_new_capabilities = true needs plugins.data_dir, which records what has served and cannot be used: {0}"
    )]
    NothingKept(String),
    /// The sandbox cannot be set up.
    #[error(
        "the sandbox of the plugins cannot be set up: {reason}; where the address space is limited (ulimit -v), let the \
         process have 128 GiB of it at least"
    )]
    Sandbox {
        /// What was missing.
        reason: String,
    },
    /// Fewer attempts fit into the address space than one plugin must be able to run.
    #[error(
        "consumer.concurrency = {wanted} is more than the address space of this process has room for: lower it to {most}, \
         or let the process have more address space (ulimit -v), 16 GiB for each"
    )]
    Concurrency {
        /// The attempts that one plugin must be able to run side by side.
        wanted: usize,
        /// The most that it can run.
        most: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_setting_to_lower_where_one_plugin_cannot_have_its_concurrency() {
        let options = |plugin_concurrency| RegistryOptions {
            concurrency: 64,
            reserve: 256,
            plugin_concurrency,
            ..RegistryOptions::default()
        };
        let room = |attempts| InstanceCapacity { running: attempts, idle: 0 };
        assert_eq!(options(64).granted_concurrency(room(320)).unwrap(), 64);
        assert_eq!(options(12).granted_concurrency(room(24)).unwrap(), 12);
        let error = options(13).granted_concurrency(room(24)).unwrap_err().to_string();
        assert!(error.contains("consumer.concurrency = 13") && error.contains("lower it to 12"), "{error}");
    }

    #[test]
    fn the_value_that_the_error_proposes_has_room() {
        for memories in [24, 30, 63, 100, 250, 500, 1_000] {
            let concurrency = |plugin_concurrency: usize| {
                let concurrency = (plugin_concurrency * 8).clamp(64, 4_096);
                let options =
                    RegistryOptions { concurrency, reserve: 256, plugin_concurrency, ..RegistryOptions::default() };
                let capacity = InstanceCapacity::of(concurrency + 256);
                options.granted_concurrency(capacity.fitting(|capacity| capacity.memories() <= memories).unwrap())
            };
            for wanted in 1..500 {
                if let Err(RegistryError::Concurrency { most, .. }) = concurrency(wanted) {
                    assert!(concurrency(most).is_ok(), "{wanted}, then {most} where {memories} fit");
                }
            }
        }
    }
}
