//! The settings of one plugin, read and checked.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

use serde::Deserialize;
use toml::Table;

use super::check::check;
use super::invalid::InvalidSettings;
use super::limits_patch::LimitsPatch;
use super::retry_settings::RetrySettings;
use crate::event::TypePattern;
use crate::plugin::{HttpGrants, ReusePolicy, SecretSource};

/// The largest `concurrency` of a plugin.
pub const MAX_CONCURRENCY: usize = 10_000;

/// The settings of a plugin. A setting that is left out is as for all plugins.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginSettings {
    /// The types that it handles, in place of those that it names itself.
    pub types: Option<Vec<TypePattern>>,
    /// How many attempts may run side by side on one host.
    pub concurrency: Option<NonZeroUsize>,
    /// How many of its events may wait in the deployment.
    pub max_waiting: Option<NonZeroU64>,
    /// Whether and how instances are used for several events.
    pub reuse: Option<ReusePolicy>,
    /// Its limits.
    pub limits: LimitsPatch,
    /// Its retry policies.
    pub retry: RetrySettings,
    /// The values of `config.get`.
    pub config: Option<BTreeMap<String, String>>,
    /// The values of `secrets.get`. They are hidden everywhere else.
    pub secrets: Option<BTreeMap<String, SecretSource>>,
    /// What it may do beyond every plugin.
    pub grants: GrantSettings,
}

/// What is granted to a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrantSettings {
    /// Where it may send HTTP requests.
    pub http: Option<HttpGrants>,
}

impl PluginSettings {
    /// Reads the text of a file of settings.
    ///
    /// # Errors
    /// What is wrong, and in which line and column. Never the line itself: it may hold a secret.
    pub fn parse(text: &str) -> Result<Self, InvalidSettings> {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let byte = |error: &toml::de::Error| error.span().map(|span| span.start);
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            InvalidSettings::new(error.message().trim_end()).placed(text, byte(&error))
        })?;
        check(&table).map_err(|error| error.placed(text, None))?;
        let settings: Self = table.try_into().map_err(|error: toml::de::Error| {
            // Errors of a table name the key; those of the text also know the position.
            let byte = toml::from_str::<Self>(text).err().as_ref().and_then(byte);
            InvalidSettings::unfit(&error).placed(text, byte)
        })?;
        settings.checked().map_err(|error| error.placed(text, None))
    }

    /// Reads a table of settings, such as `[plugins.NAME]`.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn from_table(table: Table) -> Result<Self, InvalidSettings> {
        check(&table)?;
        let settings: Self = table.try_into().map_err(|error| InvalidSettings::unfit(&error))?;
        settings.checked()
    }

    /// Checks the values against each other and against fixed limits.
    fn checked(self) -> Result<Self, InvalidSettings> {
        self.retry.check().map_err(|error| error.at(&["retry"]))?;
        if self.concurrency.is_some_and(|concurrency| concurrency.get() > MAX_CONCURRENCY) {
            let words = format!("concurrency is at most {MAX_CONCURRENCY}");
            return Err(InvalidSettings::new(words).at(&["concurrency"]));
        }
        Ok(self)
    }

    /// These settings, and those of `defaults` where nothing is set.
    pub fn over(self, defaults: &Self) -> Self {
        Self {
            types: self.types.or_else(|| defaults.types.clone()),
            concurrency: self.concurrency.or(defaults.concurrency),
            max_waiting: self.max_waiting.or(defaults.max_waiting),
            reuse: self.reuse.or(defaults.reuse),
            limits: self.limits.or(&defaults.limits),
            retry: self.retry.or(&defaults.retry),
            config: self.config.or_else(|| defaults.config.clone()),
            secrets: self.secrets.or_else(|| defaults.secrets.clone()),
            grants: GrantSettings { http: self.grants.http.or_else(|| defaults.grants.http.clone()) },
        }
    }
}
