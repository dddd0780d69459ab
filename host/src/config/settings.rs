//! The settings as each part of the program needs them, after all sources were merged and checked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::broker_url::BrokerUrl;
use crate::api::ServerOptions;
use crate::broker;
use crate::event::RetryPolicies;
use crate::plugin::{CompileLimits, WatchMethod};
use crate::telemetry;

/// The complete configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The HTTP server.
    pub server: ServerOptions,
    /// The address of the broker.
    pub broker_url: BrokerUrl,
    /// The options of the broker.
    pub broker: broker::BrokerOptions,
    /// The largest payload that a handler may publish, in bytes. Clients have the same limit.
    pub max_payload_bytes: usize,
    /// The part that delivers events to plugins.
    pub worker: WorkerSettings,
    /// The plugins.
    pub plugins: PluginsSettings,
    /// The log.
    pub log: telemetry::LogOptions,
}

/// The settings of the worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSettings {
    /// How many attempts of one plugin run at the same time on this host.
    pub concurrency: usize,
    /// How long a delivery belongs to this consumer without a renewal.
    pub lease_ms: u64,
    /// How long running attempts may take to end when the program stops.
    pub drain_ms: u64,
    /// The retry policies of plugins that have none of their own.
    pub policies: RetryPolicies,
    /// The longest chain of events that cause each other.
    pub max_depth: u32,
}

/// The settings of `plugin`. It knows the keys of the tables and validates them.
#[derive(Clone, PartialEq)]
pub struct PluginsSettings {
    /// Whether a missing plugin directory is created. Only the default one is.
    pub may_make_dir: bool,
    /// The plugin directory.
    pub dir: PathBuf,
    /// How changes of the plugin directory are noticed.
    pub watch: WatchSettings,
    /// Where compiled code and earlier versions are kept; `None` keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// The most compiled code to keep, in bytes; 0 keeps none.
    pub cache_max_bytes: u64,
    /// Whether a build that imports more than the active version waits for approval.
    pub hold_new_capabilities: bool,
    /// Whether a build that takes types from another plugin waits for approval.
    pub hold_taken_types: bool,
    /// The limits of compiling one plugin.
    pub compile: CompileLimits,
    /// `[plugins.limits]`: the limits of an attempt for plugins that have none of their own.
    pub limits: toml::Table,
    /// `[plugins.resolve]`: the addresses of names that plugins send requests to.
    pub resolve: toml::Table,
    /// `[plugins.NAME]`, by name.
    pub by_name: BTreeMap<String, toml::Table>,
}

/// How changes of the plugin directory are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    /// The method: the system's notifications, or reading the directory only.
    pub method: WatchMethod,
    /// How often the directory is read even without a notification, in milliseconds.
    pub rescan_ms: u64,
    /// How long a file must stay unchanged before it is loaded, in milliseconds.
    pub settle_ms: u64,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self { method: WatchMethod::default(), rescan_ms: 5_000, settle_ms: 500 }
    }
}

/// Shows only the names in the tables: their values may be secrets.
impl fmt::Debug for PluginsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginsSettings")
            .field("dir", &self.dir)
            .field("limits", &self.limits)
            .field("by_name", &self.by_name.keys())
            .finish_non_exhaustive()
    }
}
