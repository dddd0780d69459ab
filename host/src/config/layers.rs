//! The sources of settings, one after the other into the draft: file, environment, flags. A later one replaces what an
//! earlier one said. A name that is not a setting is refused with the nearest one that is.

use std::path::Path;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::FlagSetting;
use super::draft::ConfigDraft;
use super::error::ConfigFault;
use super::given::GivenValue;
use super::keys::SettingKey;

/// The beginning of every variable that is ours.
const PREFIX: &str = "EVENTSTREAM_";
/// Variables that are ours and read by the command line alone.
const NOT_SETTINGS: [&str; 2] = ["EVENTSTREAM_CONFIG", "EVENTSTREAM_URL"];
/// Variables that switch guarantees off in builds for tests; read where they are used.
const TEST_PREFIX: &str = "EVENTSTREAM_TEST_";
/// How a variable that gives a limit of plugins begins.
const LIMITS_PREFIX: &str = "EVENTSTREAM_PLUGINS_LIMITS_";

/// Takes what a file says.
pub(super) fn apply_file(
    draft: &mut ConfigDraft,
    keys: &[SettingKey],
    path: &Path,
    text: &str,
    faults: &mut Vec<ConfigFault>,
) {
    let root = match DeTable::parse(text) {
        Ok(root) => root.into_inner(),
        Err(error) => {
            let start = error.span().map_or(0, |span| span.start);
            faults.push(ConfigFault { place: place(path, text, start), message: error.message().to_owned() });
            return;
        }
    };
    // The same text once more, as values without places.
    let values: toml::Table = toml::from_str(text).unwrap_or_default();
    let mut file = SettingsFile { draft, keys, path, text, faults };
    file.section("", &root, &values);
}

struct SettingsFile<'a> {
    draft: &'a mut ConfigDraft,
    keys: &'a [SettingKey],
    path: &'a Path,
    text: &'a str,
    faults: &'a mut Vec<ConfigFault>,
}

impl SettingsFile<'_> {
    fn section(&mut self, prefix: &str, table: &DeTable<'_>, values: &toml::Table) {
        for (key, placed) in table {
            let name =
                if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            let Some(value) = values.get(key.get_ref().as_ref()) else { continue };
            let start = key.span().start;
            if let Some(known) = self.keys.iter().find(|known| known.name == name) {
                self.set(known, value, start);
            } else if prefix == "plugins" {
                self.plugin(key.get_ref(), value, start);
            } else if let (DeValue::Table(inner), Value::Table(inner_values)) = (placed.get_ref(), value)
                && self.is_section(&name)
            {
                self.section(&name, inner, inner_values);
            } else if self.is_section(&name) {
                self.fault(start, format!("{name} is a section: write [{name}] and its keys below"));
            } else {
                let is_table = matches!(value, Value::Table(_));
                let section =
                    |key: &SettingKey| key.name.rsplit_once('.').map_or(String::new(), |(section, _)| section.into());
                let known: Vec<String> =
                    self.keys.iter().map(|key| if is_table { section(key) } else { key.name.clone() }).collect();
                let what = if is_table { "section" } else { "setting" };
                let hint = hint(&name, known.iter().map(String::as_str));
                self.fault(start, format!("{name} is not a {what}{hint}"));
            }
        }
    }

    fn set(&mut self, key: &SettingKey, value: &Value, start: usize) {
        match (key.set)(self.draft, GivenValue::Toml(value)) {
            Ok(()) => self.draft.origins.push((key.name.clone(), place(self.path, self.text, start))),
            Err(expected) => self.fault(start, format!("{}: {expected}", key.name)),
        }
    }

    /// `[plugins.limits]`, `[plugins.resolve]` and `[plugins.NAME]` are handed on as they are.
    fn plugin(&mut self, name: &str, value: &Value, start: usize) {
        match value {
            Value::Table(table) if name == "resolve" => self.draft.resolve.extend(table.clone()),
            Value::Table(table) if name == "limits" => self.draft.plugin_limits.extend(table.clone()),
            Value::Table(table) => {
                self.draft.plugins.insert(name.to_owned(), table.clone());
            }
            _ => {
                let known: Vec<_> = self.keys.iter().filter_map(|key| key.name.strip_prefix("plugins.")).collect();
                let known = known.join(", ");
                let message = format!(
                    "plugins.{name} is not a setting; here stand {known}, limits and a section for each plugin"
                );
                self.fault(start, message);
            }
        }
    }

    fn is_section(&self, name: &str) -> bool {
        name == "plugins"
            || self.keys.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    fn fault(&mut self, start: usize, message: String) {
        self.faults.push(ConfigFault { place: place(self.path, self.text, start), message });
    }
}

/// Takes what the environment says.
pub(super) fn apply_environment(
    draft: &mut ConfigDraft,
    keys: &[SettingKey],
    environment: &[(String, String)],
    faults: &mut Vec<ConfigFault>,
) {
    let variables: Vec<String> = keys.iter().map(SettingKey::variable).collect();
    for (name, value) in environment {
        if !name.starts_with(PREFIX) || name.starts_with(TEST_PREFIX) || NOT_SETTINGS.contains(&name.as_str()) {
            continue;
        }
        if let Some(index) = variables.iter().position(|variable| variable == name) {
            match (keys[index].set)(draft, GivenValue::Text(value)) {
                Ok(()) => draft.origins.push((keys[index].name.clone(), name.clone())),
                Err(message) => faults.push(ConfigFault { place: name.clone(), message }),
            }
        } else if let Some(limit) = name.strip_prefix(LIMITS_PREFIX) {
            let value = value.parse().map_or_else(|_| Value::String(value.clone()), Value::Integer);
            draft.plugin_limits.insert(limit.to_ascii_lowercase(), value);
        } else if !is_made_by_kubernetes(name, value) {
            let known = variables.iter().map(String::as_str).chain(NOT_SETTINGS);
            let message = match name.strip_prefix("EVENTSTREAM_PLUGINS_") {
                Some(_) => "is not a setting; settings of one plugin stand in a file, under [plugins.NAME]".into(),
                None => format!("is not a setting{}", hint(name, known)),
            };
            faults.push(ConfigFault { place: name.clone(), message });
        }
    }
}

/// Takes what the command line says.
pub(super) fn apply_flags(
    draft: &mut ConfigDraft,
    keys: &[SettingKey],
    flags: &[FlagSetting],
    faults: &mut Vec<ConfigFault>,
) {
    for FlagSetting { key, flag, value } in flags {
        let set = keys.iter().find(|known| known.name == *key).map(|known| (known.set)(draft, GivenValue::Text(value)));
        match set {
            Some(Ok(())) => draft.origins.push(((*key).to_owned(), (*flag).to_owned())),
            Some(Err(message)) => faults.push(ConfigFault { place: (*flag).to_owned(), message }),
            None => faults.push(ConfigFault { place: (*flag).to_owned(), message: format!("{key} is not a setting") }),
        }
    }
}

/// Kubernetes gives every container variables named after the services beside it, and one of them may well be called
/// `eventstream`: `EVENTSTREAM_SERVICE_HOST`, `EVENTSTREAM_PORT=tcp://…`, `EVENTSTREAM_PORT_3000_TCP_ADDR`.
fn is_made_by_kubernetes(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT") && is_url)
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn place(path: &Path, text: &str, offset: usize) -> String {
    let line = text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
    format!("{}, line {line}", path.display())
}

/// The words about the nearest known name, if one is near.
fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    if matches!(name, "auth.keys" | "EVENTSTREAM_AUTH_KEYS") {
        return "; API keys are not part of this version".into();
    }
    // The last part weighs most: a key under the wrong section is recognised by it.
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &str| strsim::jaro(known, name).max(strsim::jaro(&last(known), &last(name)) - 0.05);
    let nearest = known.map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, known)) if likeness > 0.75 => format!("; did you mean {known}?"),
        _ => "; eventstream.toml in the repository lists them all".into(),
    }
}
