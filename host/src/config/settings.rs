//! The settings as each part of the program needs them, after all sources were merged and checked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::api::ServerOptions;
use crate::api_key::ConfiguredKey;
use crate::broker;
use crate::plugin::{CompileLimits, WatchMethod};
use crate::secret::{RedactedText, RedactedUrl, SecretText};
use crate::telemetry;
use crate::worker::WorkerOptions;

/// The complete configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The HTTP server.
    pub server: ServerOptions,
    /// The keys that the configuration names.
    pub keys: Vec<ConfiguredKey>,
    /// The address of the broker.
    pub broker_url: BrokerUrl,
    /// The options of the broker.
    pub broker: broker::BrokerOptions,
    /// The part that delivers events to plugins.
    pub worker: WorkerOptions,
    /// The plugins.
    pub plugins: PluginsSettings,
    /// The log.
    pub log: telemetry::LogOptions,
}

/// The address of the broker. It may contain a password, so `Display` and `Debug` hide it.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(SecretText);

impl BrokerUrl {
    /// Returns the address with its password.
    pub fn as_str(&self) -> &str {
        self.0.expose()
    }
}

impl From<String> for BrokerUrl {
    fn from(url: String) -> Self {
        Self(url.into())
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.as_str();
        if url.starts_with("embedded:") { RedactedText(url).fmt(f) } else { RedactedUrl(url).fmt(f) }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

/// The settings of `plugin`. It knows the keys of the tables and validates them.
#[derive(Clone, PartialEq)]
pub struct PluginsSettings {
    /// Whether a missing plugin directory is created. Only the default one is.
    pub may_make_dir: bool,
    /// The plugin directory.
    pub dir: PathBuf,
    /// How changes of the plugin directory are noticed: by the system's notifications, or by reading it only.
    pub watch: WatchMethod,
    /// How often the directory is read even without a notification, in milliseconds.
    pub rescan_ms: u64,
    /// How long a file must stay unchanged before it is loaded, in milliseconds.
    pub quiet_ms: u64,
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
    /// The file with these tables and its text, to name the line of what is wrong.
    pub file: Option<(PathBuf, String)>,
}

impl Default for PluginsSettings {
    fn default() -> Self {
        Self {
            may_make_dir: true,
            dir: "./plugins".into(),
            watch: WatchMethod::default(),
            rescan_ms: 5_000,
            quiet_ms: 500,
            data_dir: None,
            cache_max_bytes: 1024 * 1024 * 1024,
            hold_new_capabilities: false,
            hold_taken_types: true,
            compile: CompileLimits::default(),
            limits: toml::Table::new(),
            resolve: toml::Table::new(),
            by_name: BTreeMap::new(),
            file: None,
        }
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
