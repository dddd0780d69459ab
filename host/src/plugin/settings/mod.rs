//! The settings of a plugin: `NAME.toml` beside the file, or `[plugins.NAME]` in the configuration.
//!
//! An unknown key is refused with the nearest known one, since a misspelled limit would be no limit. Keys end in their
//! unit. Beside plain numbers they accept what people write (`"64MiB"`, `"5s"`).

pub(super) mod limits_patch;
pub(super) mod secrets;

mod invalid;
mod plugin_settings;
mod resolve;
mod retry_settings;
#[cfg(test)]
mod settings_tests;

pub use invalid::InvalidSettings;
pub use limits_patch::LimitsPatch;
pub use plugin_settings::{GrantSettings, MAX_CONCURRENCY, PluginSettings};
pub use resolve::given_addresses;
pub use retry_settings::RetrySettings;
