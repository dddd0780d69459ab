//! The configuration: what flags, environment and file say, put together and checked as a whole.
//!
//! A setting is given by a flag, else by the environment, else by the file, else by its default; nothing else in the
//! program reads an environment variable or a settings file. What is wrong is reported all at once, each with the place
//! where it stands. A [`Config`] that exists can be served with; whether a plugin's own settings make sense is judged
//! by `plugin`, to which they are handed on unread.

mod draft;
mod error;
mod given;
mod keys;
mod layers;

pub use error::{ConfigFault, Error};

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::api::ServerOptions;
use crate::broker;
use crate::event::RetryPolicies;
use crate::plugin::{CompileLimits, WatchMethod};
use crate::secret::{RedactedText, RedactedUrl, SecretText};
use crate::telemetry;

use draft::ConfigDraft;

/// The file that is read when none is named, if there is one.
pub const DEFAULT_FILE: &str = "eventstream.toml";

/// Everything that the program is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The HTTP server.
    pub server: ServerOptions,
    /// Where the broker is.
    pub broker_url: BrokerUrl,
    /// What every broker is told.
    pub broker: broker::BrokerOptions,
    /// The largest payload that a handler may publish, in bytes; the same as for clients.
    pub max_payload_bytes: usize,
    /// The part that hands events to plugins.
    pub worker: WorkerSettings,
    /// The plugins.
    pub plugins: PluginsSettings,
    /// The log.
    pub log: telemetry::LogOptions,
}

/// What the worker is told.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSettings {
    /// Attempts of one plugin side by side on this host.
    pub concurrency: usize,
    /// How long a delivery belongs to this consumer without being renewed.
    pub lease_ms: u64,
    /// How long attempts under way may take to end when the program stops.
    pub drain_ms: u64,
    /// How failures are tried again where a plugin says nothing else.
    pub policies: RetryPolicies,
    /// The greatest length of a chain of events that cause each other.
    pub max_depth: u32,
}

/// What `plugin` is told. The tables are as they were written: `plugin` knows their keys.
#[derive(Clone, PartialEq)]
pub struct PluginsSettings {
    /// Whether the directory is made if it is not there: only the one that nobody named.
    pub may_make_dir: bool,
    /// Where the components are.
    pub dir: PathBuf,
    /// How changes of the directory are followed.
    pub follow: FollowSettings,
    /// Where compiled code and earlier versions are kept; `None` to keep nothing.
    pub data_dir: Option<PathBuf>,
    /// The most compiled code that is kept, in bytes; 0 to keep none.
    pub cache_max_bytes: u64,
    /// Whether a build that imports more than the version that serves waits to be approved.
    pub hold_new_capabilities: bool,
    /// Whether a build waits to be approved that takes types from another plugin.
    pub hold_taken_types: bool,
    /// What compiling one of them may take.
    pub compile: CompileLimits,
    /// `[plugins.limits]`: what an attempt may use, for every plugin that says nothing else.
    pub limits: toml::Table,
    /// `[plugins.resolve]`: addresses of names that plugins send requests to.
    pub resolve: toml::Table,
    /// `[plugins.NAME]` by name.
    pub by_name: BTreeMap<String, toml::Table>,
}

/// How changes of the plugin directory are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowSettings {
    /// How they are noticed.
    pub notice: WatchMethod,
    /// How often the directory is read even if nothing seemed to change, in milliseconds.
    pub rescan_ms: u64,
    /// For how long a file must not have changed before it is loaded, in milliseconds.
    pub settle_ms: u64,
}

impl Default for FollowSettings {
    fn default() -> Self {
        Self { notice: WatchMethod::default(), rescan_ms: 5_000, settle_ms: 500 }
    }
}

/// The tables may hold secrets, and so are shown by their names.
impl fmt::Debug for PluginsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginsSettings")
            .field("dir", &self.dir)
            .field("limits", &self.limits)
            .field("by_name", &self.by_name.keys())
            .finish_non_exhaustive()
    }
}

/// The address of the broker. May hold a password, and so shows itself without one.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(SecretText);

impl BrokerUrl {
    /// The address as it was given.
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

/// Where settings come from. Their values may be secrets, and are not shown.
#[derive(Clone, Default)]
pub struct ConfigSources {
    /// The file that was asked for; without one, [`DEFAULT_FILE`] in the working directory if it exists.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// What was said on the command line.
    pub flags: Vec<FlagSetting>,
}

impl fmt::Debug for ConfigSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("file", &self.file).field("flags", &self.flags).finish_non_exhaustive()
    }
}

/// A setting that was given on the command line. Its value may be a secret, and is not shown.
#[derive(Clone)]
pub struct FlagSetting {
    /// The setting, such as `server.listen`.
    pub key: &'static str,
    /// The flag, such as `--listen`.
    pub flag: &'static str,
    /// What followed it.
    pub value: String,
}

impl fmt::Debug for FlagSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flag").field("key", &self.key).field("flag", &self.flag).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// The file cannot be read, or something in any of the sources is wrong; trying again does not help.
    pub fn load(sources: &ConfigSources) -> Result<Self, Error> {
        let path = sources.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && sources.file.is_none() => None,
            Err(error) => return Err(Error::Unreadable { path, error }),
        };
        // Some editors begin a file with a byte order mark.
        let text = text.as_deref().map(|text| text.strip_prefix('\u{feff}').unwrap_or(text));
        Self::from_layers(text.map(|text| (path.as_path(), text)), &sources.environment, &sources.flags)
    }

    /// The configuration that these sources make; reads nothing.
    ///
    /// # Errors
    /// Everything that is wrong in any of the sources.
    pub fn from_layers(
        file: Option<(&Path, &str)>,
        environment: &[(String, String)],
        flags: &[FlagSetting],
    ) -> Result<Self, Error> {
        let mut draft = ConfigDraft::default();
        let mut faults = Vec::new();
        let keys = keys::all();
        if let Some((path, text)) = file {
            layers::apply_file(&mut draft, &keys, path, text, &mut faults);
        }
        layers::apply_environment(&mut draft, &keys, environment, &mut faults);
        layers::apply_flags(&mut draft, &keys, flags, &mut faults);
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        draft.finish().map_err(Error::Invalid)
    }
}

#[cfg(test)]
mod tests;
