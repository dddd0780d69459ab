//! The settings of one plugin: read, checked, and summed up for a person to read before they are used.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

use serde::Deserialize;
use serde_json::Value;
use toml::Table;

use super::invalid::{self, InvalidSettings};
use super::limits_patch::LimitsPatch;
use super::retry_settings::RetrySettings;
use crate::event::TypePattern;
use crate::plugin::{AttemptLimits, HttpGrants, ReusePolicy, SecretSource};

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
        let settings = Self::read(table).map_err(|error| {
            // Errors of a table name the key; those of the text also know the position.
            error.placed(text, toml::from_str::<Self>(text).err().as_ref().and_then(byte))
        })?;
        settings.checked().map_err(|error| error.placed(text, None))
    }

    /// Reads a table of settings, such as `[plugins.NAME]`.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn from_table(table: Table) -> Result<Self, InvalidSettings> {
        Self::read(table)?.checked()
    }

    fn read(table: Table) -> Result<Self, InvalidSettings> {
        if table.get("secrets").is_some_and(|secrets| !secrets.is_table()) {
            let words = "secrets are a table: secrets = { name = { env = \"NAME\" } }";
            return Err(InvalidSettings::new(words).at(&["secrets"]));
        }
        invalid::read(&[], table)
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

impl PluginSettings {
    /// Pairs of a kind and what these settings give of it, without the values of secrets. Empty if they give nothing beyond
    /// what every plugin has.
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let hosts = self.grants.http.iter().flat_map(|grants| grants.iter().map(ToString::to_string)).collect();
        let secrets = self.secrets.iter().flatten().map(|(name, source)| format!("{name} from {source}")).collect();
        let config = self.config.iter().flat_map(|config| config.keys().cloned()).collect();
        let types = self.types.iter().flatten().map(ToString::to_string).collect();
        let rows: [(_, Vec<String>); 5] = [
            ("hosts", hosts),
            ("secrets", secrets),
            ("config", config),
            ("types", types),
            ("limits", self.changed_limits()),
        ];
        rows.into_iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(what, values)| (what, values.join(", ")))
            .collect()
    }

    /// The limits that differ from the defaults.
    fn changed_limits(&self) -> Vec<String> {
        let values = |limits: AttemptLimits| match serde_json::to_value(limits) {
            Ok(Value::Object(values)) => values,
            _ => serde_json::Map::new(),
        };
        let usual = values(AttemptLimits::default());
        let set = values(self.limits.over(AttemptLimits::default()));
        let differs = |(key, value): &(String, Value)| usual.get(key) != Some(value);
        set.into_iter().filter(differs).map(|(key, value)| format!("{} = {value}", settings_key(&key))).collect()
    }
}

/// The key of the settings for a member of a JSON document.
pub(super) fn settings_key(key: &str) -> String {
    let mut written = String::new();
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            written.push('_');
        }
        written.push(c.to_ascii_lowercase());
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_everything_but_the_values_of_secrets() {
        let settings = PluginSettings::parse(
            r#"
            secrets = { a = { file = "/home/me/key" }, b = { env = "CLOUD_TOKEN" }, c = "hunter2" }
            grants.http = ["http://10.0.0.7:8080", { url = "https://api.example.com", methods = ["POST"] }]
            config = { url = "hunter3" }
            limits = { wall_ms = "60s", cpu_ms = 1000 }
            "#,
        )
        .unwrap();
        let rows: Vec<String> = settings.summary().iter().map(|(what, value)| format!("{what}: {value}")).collect();
        assert_eq!(
            rows,
            [
                "hosts: http://10.0.0.7:8080, https://api.example.com (POST)",
                "secrets: a from the file \"/home/me/key\", b from the variable CLOUD_TOKEN, c from these settings",
                "config: url",
                "limits: wall_ms = 60000",
            ]
        );
        assert_eq!(PluginSettings::parse("limits = { cpu_ms = 1000 }").unwrap().summary(), []);
    }
}
