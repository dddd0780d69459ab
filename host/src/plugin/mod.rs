//! Components that handle events: loaded from a directory, sandboxed, replaced while events flow.
//!
//! A [`Plugin`] is one version of one component, ready to run. The [`Registry`] knows which plugin handles which type
//! and swaps versions without a lock on the path of an event: an attempt that has begun ends on the version it began
//! with. Nothing here knows of a broker: what a handler publishes and writes leaves as plain values in its [`Outcome`], and
//! what it reads of its state comes through [`ReadState`].
//!
//! Guests run on runtimes of their own, never on those of HTTP and the broker: a guest that burns its CPU time delays
//! neither of them nor, for longer than a slice, another guest. [`Registry::work_off`] takes work there in bulk,
//! [`Plugin::handle`] a single attempt.

mod component;
mod data_dir;
mod dialect;
mod host_api;
mod inspection;
mod registry;
mod run;
mod sandbox;
mod settings;
#[cfg(test)]
mod testing;

pub use component::compile::Compiler;
pub use component::compile_child::{CompileChild, CompileLimits, answer as compile_and_answer};
pub use component::load_error::LoadError;
pub use dialect::Dialect;
pub use host_api::state_reader::{MemoryState, StateReader, StateUnavailable};
pub use host_api::{HttpGrant, HttpGrants};
pub use inspection::InspectionSandbox;
pub use registry::PluginRegistry;
pub use registry::approval::ApproveError;
pub use registry::directory_watch::WatchMethod;
pub use registry::removal::{RemovalReport, RemoveError};
pub use registry::rollback::RollbackError;
pub use registry::routing::{InvalidPattern, TypePattern};
pub use registry::status::{NeedsApproval, PluginReport, PluginStatus, TakenTypes};
pub use run::cpu_meter::CpuMeter;
pub use run::executor::GuestJob;
pub use run::instance_pool::ReusePolicy;
pub use run::plugin::{AttemptPermit, Plugin};
pub use sandbox::limits::AttemptLimits;
pub use settings::secrets::{FromEnvironment, FromFile, SecretError, SecretSource};
pub use settings::{
    GrantSettings, InvalidSettings, LimitsPatch, MAX_CONCURRENCY, PluginSettings, RetrySettings, given_addresses,
};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::{AttemptOutcome, Event, LogLine, RetryPolicies};

/// What a plugin is given with an event.
#[derive(Clone, Debug)]
pub struct AttemptInput {
    /// The event.
    pub event: Arc<Event>,
    /// 1 for the first attempt since it was accepted or last replayed.
    pub attempt: u32,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    /// Ok with effects, or why not.
    pub outcome: AttemptOutcome,
    /// What the guest logged, within the limits.
    pub log: Vec<LogLine>,
    /// Log lines past the limits.
    pub log_lines_dropped: u32,
    /// What the guest wrote to its standard error, cut to the limit.
    pub stderr: Option<String>,
}

/// What the registry must be told.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// The plugin directory.
    pub dir: PathBuf,
    /// Whether the directory is made if it is not there.
    pub may_make_dir: bool,
    /// How many attempts may run side by side. More of them wait; they do not fail. Where the address space holds fewer,
    /// there are fewer.
    pub concurrency: usize,
    /// For how many of one plugin there must be room.
    pub plugin_concurrency: usize,
    /// How many more may: one for each plugin of which nothing runs, so that none waits for the slow ones of others.
    pub reserve: usize,
    /// The limits of every plugin that has no others.
    pub limits: AttemptLimits,
    /// The retry policies of every plugin that has no others.
    pub policies: RetryPolicies,
    /// `[plugins.NAME]` of the configuration. What a file `NAME.toml` in the directory says goes before it.
    pub settings: BTreeMap<String, PluginSettings>,
    /// Where this server itself listens: no grant leads there.
    pub listeners: Vec<SocketAddr>,
    /// Addresses of names, in place of what the resolver of the system says of them.
    pub resolve: BTreeMap<String, Vec<IpAddr>>,
    /// The largest file that is loaded.
    pub max_file_bytes: u64,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// The native stack of a guest, for all plugins alike.
    pub stack_bytes: usize,
    /// Where compiled code and earlier versions are kept, for the next start and for going back; `None` to keep nothing.
    pub data_dir: Option<PathBuf>,
    /// The most compiled code that is kept, in bytes; 0 to keep none.
    pub cache_max_bytes: u64,
    /// Whether a build that imports more than the version that serves waits to be approved. Needs a `data_dir`.
    pub hold_new_capabilities: bool,
    /// Whether a build waits to be approved that takes types from another plugin which serves.
    pub hold_taken_types: bool,
    /// How changes of the directory are noticed.
    pub notice: WatchMethod,
    /// For how long a file must not have changed before it is loaded, in milliseconds.
    pub settle_ms: u64,
    /// How often the directory is read even if nothing seemed to change, in milliseconds.
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
            notice: WatchMethod::default(),
            settle_ms: 500,
            rescan_ms: 5_000,
        }
    }
}

/// Why there is no registry. Trying again does not help until a person has acted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be made or read.
    #[error("the plugin directory {dir:?} cannot be read: {source}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is asked for needs a place where things are kept.
    #[error(
        "plugins.hold_new_capabilities = true needs plugins.data_dir, where it is kept what has served, and which cannot be \
         used: {0}"
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
    /// Fewer attempts fit into the address space than one plugin is to have.
    #[error(
        "consumer.concurrency = {wanted} is more than the address space of this process has room for: lower it to {most}, \
         or let the process have more address space (ulimit -v), 16 GiB for each"
    )]
    Concurrency {
        /// The attempts that one plugin was to have side by side.
        wanted: usize,
        /// The most that it can have.
        most: usize,
    },
}

/// Whether a text can be the name of a plugin: 1 to 128 letters, digits and `._-`, a letter or digit first.
fn is_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}
