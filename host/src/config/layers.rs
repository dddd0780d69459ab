//! Loads a [`Config`]: applies the sources of settings to the draft. A later source replaces the values of an earlier one.
//! A name that is not a setting is a fault, and its message suggests the nearest setting.

use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::draft::ConfigDraft;
use super::keys::{self, SettingKey};
use super::settings::Config;
use super::sources::{ConfigFault, ConfigSources, Error, FlagSetting};
use super::value::{SettingValue, ValueMismatch};
use crate::regular_file;

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "eventstream.toml";
/// The prefix of this program's environment variables.
const PREFIX: &str = "EVENTSTREAM_";
/// Variables that only the command line reads.
const NOT_SETTINGS: [&str; 4] = ["EVENTSTREAM_CONFIG", "EVENTSTREAM_KEY", "EVENTSTREAM_KEY_FILE", "EVENTSTREAM_URL"];
/// The prefix of variables that switch guarantees off in test builds. They are read where they are used.
const TEST_PREFIX: &str = "EVENTSTREAM_TEST_";
/// The prefix of variables that set a limit of plugins.
const LIMITS_PREFIX: &str = "EVENTSTREAM_PLUGINS_LIMITS_";

impl Config {
    /// Reads all sources and checks the configuration.
    ///
    /// # Errors
    /// The file cannot be read, or a setting in one of the sources is wrong. Trying again does not help.
    pub fn load(sources: &ConfigSources) -> Result<Self, Error> {
        let path = sources.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let text = match regular_file::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && sources.file.is_none() => None,
            Err(error) => return Err(Error::Unreadable { path, error }),
        };
        // Some editors write a byte order mark at the start of a file.
        let text = text.as_deref().map(|text| text.strip_prefix('\u{feff}').unwrap_or(text));
        Self::from_layers(text.map(|text| (path.as_path(), text)), &sources.environment, &sources.flags)
    }

    /// Builds the configuration from these sources. It reads nothing itself.
    ///
    /// # Errors
    /// Everything that is wrong in the sources.
    pub fn from_layers(
        file: Option<(&Path, &str)>,
        environment: &[(String, String)],
        flags: &[FlagSetting],
    ) -> Result<Self, Error> {
        let mut layers = SettingsLayers { draft: ConfigDraft::default(), keys: keys::all(), faults: Vec::new() };
        if let Some((path, text)) = file {
            layers.apply_file(path, text);
        }
        layers.apply_environment(environment);
        layers.apply_flags(flags);
        layers.finish().map_err(Error::Invalid)
    }
}

/// The settings from the sources so far, and what is wrong with them.
struct SettingsLayers {
    draft: ConfigDraft,
    keys: Vec<SettingKey>,
    faults: Vec<ConfigFault>,
}

impl SettingsLayers {
    /// Applies the settings in a file.
    fn apply_file(&mut self, path: &Path, text: &str) {
        let root = match DeTable::parse(text) {
            Ok(root) => root.into_inner(),
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start);
                self.add_fault(format_place(path, text, start), error.message());
                return;
            }
        };
        // The same text again, as values without places.
        let values: toml::Table = toml::from_str(text).unwrap_or_default();
        SettingsFile { layers: self, path, text }.apply_section("", &root, &values);
    }

    /// Applies the settings in the environment.
    fn apply_environment(&mut self, environment: &[(String, String)]) {
        let variables: Vec<String> = self.keys.iter().map(SettingKey::variable).collect();
        for (name, value) in environment {
            if !name.starts_with(PREFIX) || name.starts_with(TEST_PREFIX) || NOT_SETTINGS.contains(&name.as_str()) {
                continue;
            }
            if let Some(index) = variables.iter().position(|variable| variable == name) {
                if let Err(message) = self.apply_value(index, SettingValue::Text(value), name) {
                    self.add_fault(name, message);
                }
            } else if let Some(limit) = name.strip_prefix(LIMITS_PREFIX) {
                let value = value.parse().map_or_else(|_| Value::String(value.clone()), Value::Integer);
                self.draft.plugins.limits.insert(limit.to_ascii_lowercase(), value);
            } else if !is_made_by_kubernetes(name, value) {
                let known = variables.iter().map(String::as_str).chain(NOT_SETTINGS);
                let message = match name.strip_prefix("EVENTSTREAM_PLUGINS_") {
                    Some(_) => {
                        "is not a setting; write the settings of one plugin in a file, under [plugins.NAME]".into()
                    }
                    None => format!("is not a setting{}", suggest_name(name, known)),
                };
                self.add_fault(name, message);
            }
        }
    }

    /// Applies the settings on the command line.
    fn apply_flags(&mut self, flags: &[FlagSetting]) {
        for FlagSetting { key, flag, value } in flags {
            let applied = match self.keys.iter().position(|known| known.name == *key) {
                Some(index) => self.apply_value(index, SettingValue::Text(value), flag),
                None => Err(format!("{key} is not a setting")),
            };
            if let Err(message) = applied {
                self.add_fault(*flag, message);
            }
        }
    }

    /// Builds the configuration if nothing is wrong.
    fn finish(self) -> Result<Config, Vec<ConfigFault>> {
        if self.faults.is_empty() { self.draft.finish() } else { Err(self.faults) }
    }

    fn apply_value(&mut self, index: usize, value: SettingValue<'_>, place: &str) -> Result<(), ValueMismatch> {
        let key = &self.keys[index];
        (key.set)(&mut self.draft, value)?;
        self.draft.origins.push((key.name.clone(), place.to_owned()));
        Ok(())
    }

    fn add_fault(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.faults.push(ConfigFault { place: place.into(), message: message.into() });
    }
}

/// The file that is applied.
struct SettingsFile<'a> {
    layers: &'a mut SettingsLayers,
    path: &'a Path,
    text: &'a str,
}

impl SettingsFile<'_> {
    fn apply_section(&mut self, prefix: &str, table: &DeTable<'_>, values: &toml::Table) {
        for (key, placed) in table {
            let name =
                if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            let Some(value) = values.get(key.get_ref().as_ref()) else { continue };
            let start = key.span().start;
            if let Some(index) = self.layers.keys.iter().position(|known| known.name == name) {
                let place = format_place(self.path, self.text, start);
                if let Err(expected) = self.layers.apply_value(index, SettingValue::Toml(value), &place) {
                    self.layers.add_fault(place, format!("{name}: {expected}"));
                }
            } else if prefix == "plugins" {
                self.apply_plugin_table(key.get_ref(), value, start);
            } else if let (DeValue::Table(inner), Value::Table(inner_values)) = (placed.get_ref(), value)
                && self.is_section(&name)
            {
                self.apply_section(&name, inner, inner_values);
            } else if self.is_section(&name) {
                self.add_fault(start, format!("{name} is a section: write [{name}] and its keys below it"));
            } else {
                let is_table = matches!(value, Value::Table(_));
                let section =
                    |key: &SettingKey| key.name.rsplit_once('.').map_or(String::new(), |(section, _)| section.into());
                let known: Vec<String> =
                    self.layers.keys.iter().map(|key| if is_table { section(key) } else { key.name.clone() }).collect();
                let what = if is_table { "section" } else { "setting" };
                let hint = suggest_name(&name, known.iter().map(String::as_str));
                self.add_fault(start, format!("{name} is not a {what}{hint}"));
            }
        }
    }

    /// Stores `[plugins.limits]`, `[plugins.resolve]` and `[plugins.NAME]` unchecked.
    fn apply_plugin_table(&mut self, name: &str, value: &Value, start: usize) {
        match value {
            Value::Table(table) if name == "resolve" => self.layers.draft.plugins.resolve.extend(table.clone()),
            Value::Table(table) if name == "limits" => self.layers.draft.plugins.limits.extend(table.clone()),
            Value::Table(table) => {
                let plugins = &mut self.layers.draft.plugins;
                plugins.by_name.insert(name.to_owned(), table.clone());
                plugins.file = Some((self.path.to_owned(), self.text.to_owned()));
            }
            _ => {
                let known: Vec<_> =
                    self.layers.keys.iter().filter_map(|key| key.name.strip_prefix("plugins.")).collect();
                let known = known.join(", ");
                let message = format!(
                    "plugins.{name} is not a setting; this section has {known}, limits, resolve and a section for each plugin"
                );
                self.add_fault(start, message);
            }
        }
    }

    fn is_section(&self, name: &str) -> bool {
        name == "plugins"
            || self.layers.keys.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    fn add_fault(&mut self, start: usize, message: String) {
        self.layers.add_fault(format_place(self.path, self.text, start), message);
    }
}

/// Whether Kubernetes made the variable. For each service it gives the containers beside it variables with the service's
/// name, such as `EVENTSTREAM_SERVICE_HOST`, `EVENTSTREAM_PORT=tcp://…` and `EVENTSTREAM_PORT_3000_TCP_ADDR`.
fn is_made_by_kubernetes(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT") && is_url)
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn format_place(path: &Path, text: &str, offset: usize) -> String {
    let line = text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
    format!("{}, line {line}", path.display())
}

/// Suggests the nearest known name, if one is near.
fn suggest_name<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let upper = name.to_ascii_uppercase();
    let setting = upper.strip_prefix(PREFIX).unwrap_or(&upper);
    if setting.starts_with("AUTH") && ["KEY", "TOKEN", "PASSWORD", "SECRET"].iter().any(|it| setting.contains(it)) {
        return "; keys are made by `eventstream key new`, or named in a file below [[auth.keys]]".into();
    }
    // All variables begin alike, which says nothing. The last part counts most: it identifies a key in the wrong section.
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let similarity = |known: &str| {
        let known = known.strip_prefix(PREFIX).unwrap_or(known);
        if known.ends_with(&format!("_{name}")) {
            return 1.0;
        }
        strsim::jaro(known, name).max(strsim::jaro(&last(known), &last(name)) - 0.05)
    };
    let nearest = known.map(|known| (similarity(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((similarity, known)) if similarity > 0.75 => format!("; did you mean {known}?"),
        _ => "; eventstream.toml in the repository lists them all".into(),
    }
}
