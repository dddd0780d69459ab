//! The configuration: the settings from flags, environment and file, merged and checked as a whole.
//!
//! A flag overrides the environment, which overrides the file, which overrides the default. Nothing else in the program
//! reads an environment variable or a settings file. All faults are reported at once, each with its place. A server can
//! start with any [`Config`] that exists. The settings of single plugins are passed on unchecked: `plugin` validates them.

mod auth_keys;
mod draft;
mod keys;
mod layers;
mod settings;
mod sources;
mod value;

pub use layers::DEFAULT_FILE;
pub use settings::{BrokerUrl, Config, PluginsSettings};
pub use sources::{ConfigFault, ConfigSources, Error, FlagSetting};

#[cfg(test)]
mod tests;
