//! What is wrong with settings: an unknown key or a value that does not fit, with the file, line and column.
//!
//! An unknown key is refused with the nearest known one.

use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::secret::without_value;

/// The keys that settings may have.
const KEYS: [&str; 9] =
    ["types", "concurrency", "max_waiting", "reuse", "limits", "retry", "config", "secrets", "grants"];
const REUSE_KEYS: [&str; 2] = ["max_events", "idle_ms"];
const GRANT_KEYS: [&str; 1] = ["http"];
pub(super) const LIMIT_KEYS: [&str; 18] = [
    "wall_ms",
    "cpu_ms",
    "memory_bytes",
    "result_bytes",
    "published_events",
    "payload_bytes",
    "state_operations",
    "state_value_bytes",
    "state_keys",
    "state_bytes",
    "log_lines",
    "log_line_bytes",
    "stderr_bytes",
    "host_call_bytes",
    "http_requests",
    "http_request_bytes",
    "http_response_bytes",
    "http_timeout_ms",
];
const POLICY_KEYS: [&str; 4] = ["max_attempts", "initial_ms", "factor", "max_ms"];
const CLASS_KEYS: [&str; 4] = ["retry", "trap", "timeout", "limit"];

/// The settings cannot be used. A person has to change them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the settings are wrong: {}{words}", .place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default())]
pub struct InvalidSettings {
    words: String,
    /// The file, if there is one, with line and column.
    place: Option<String>,
    /// The key, with the tables around it.
    path: Vec<String>,
}

impl InvalidSettings {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), place: None, path: Vec::new() }
    }

    /// A value does not fit its key. The message says what was expected and leaves out the value, which may be a secret.
    pub(super) fn unfit(error: &toml::de::Error) -> Self {
        let shown = error.to_string();
        let words = without_value(error.message().trim_end());
        match shown.trim_end().rsplit_once("\nin ") {
            Some((_, key)) => {
                Self::new(format!("{words} in {key}")).at(&key.trim_matches('`').split('.').collect::<Vec<_>>())
            }
            None => Self::new(words),
        }
    }

    /// Adds the key.
    pub(super) fn at(self, path: &[&str]) -> Self {
        Self { path: path.iter().map(|name| (*name).to_owned()).collect(), ..self }
    }

    /// Adds the position in the text: that of the byte, or else that of the key.
    pub(super) fn placed(self, text: &str, byte: Option<usize>) -> Self {
        let place = byte.map(|byte| place_of_byte(text, byte)).or_else(|| place_of_key(text, &self.path));
        Self { place, ..self }
    }

    /// Adds the name of the file.
    pub(in crate::plugin) fn in_file(self, path: &Path) -> Self {
        let file = path.display();
        let place = match &self.place {
            Some(place) => format!("{file}, {place}"),
            None => file.to_string(),
        };
        Self { place: Some(place), ..self }
    }

    /// Adds the position in the section of a file that holds other settings too.
    pub fn in_section(self, section: &[&str], file: &Path, text: &str) -> Self {
        let path = section.iter().map(|name| (*name).to_owned()).chain(self.path.clone()).collect();
        Self { path, ..self }.placed(text, None).in_file(file)
    }

    /// The file cannot be read.
    pub(in crate::plugin) fn unreadable(file: &str, error: &std::io::Error) -> Self {
        Self::new(format!("{file} cannot be read: {error}"))
    }
}

/// The line and column of a byte, both counted from 1.
fn place_of_byte(text: &str, byte: usize) -> String {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

/// The line and column of a key such as `limits.wall_ms`, or of the innermost table around it that is in the text.
fn place_of_key(text: &str, path: &[String]) -> Option<String> {
    let root = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut table: Option<&DeTable<'_>> = Some(root.get_ref());
    for name in path {
        let Some((key, value)) = table.and_then(|table| table.get_key_value(name.as_str())) else { break };
        found = Some(key.span().start);
        table = match value.get_ref() {
            DeValue::Table(inner) => Some(inner),
            _ => None,
        };
    }
    found.map(|byte| place_of_byte(text, byte))
}

/// Refuses unknown keys in all tables of a plugin's settings.
pub(super) fn check_all_keys(table: &Table) -> Result<(), InvalidSettings> {
    check_keys(&[], table, &KEYS)?;
    check_table(table, "reuse", &REUSE_KEYS)?;
    check_table(table, "limits", &LIMIT_KEYS)?;
    check_table(table, "grants", &GRANT_KEYS)?;
    if table.get("secrets").is_some_and(|secrets| !secrets.is_table()) {
        let words = "secrets are a table: secrets = { name = { env = \"NAME\" } }";
        return Err(InvalidSettings::new(words).at(&["secrets"]));
    }
    check_table(table, "retry", &[POLICY_KEYS, CLASS_KEYS].concat())?;
    if let Some(Value::Table(retry)) = table.get("retry") {
        for class in CLASS_KEYS {
            if let Some(Value::Table(policy)) = retry.get(class) {
                check_keys(&["retry", class], policy, &POLICY_KEYS)?;
            }
        }
    }
    Ok(())
}

fn check_table(table: &Table, key: &str, known: &[&str]) -> Result<(), InvalidSettings> {
    match table.get(key) {
        Some(Value::Table(inner)) => check_keys(&[key], inner, known),
        _ => Ok(()),
    }
}

/// Refuses unknown keys in one table.
pub(super) fn check_keys(place: &[&str], table: &Table, known: &[&str]) -> Result<(), InvalidSettings> {
    let Some(unknown) = table.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let path = [place, &[unknown.as_str()]].concat();
    let nearest = known.iter().max_by(|a, b| strsim::jaro(a, unknown).total_cmp(&strsim::jaro(b, unknown)));
    let key = path.join(".");
    let words = match nearest {
        _ if place.is_empty() && table[unknown].is_table() => format!(
            "no key {key:?}; is it part of the plugin's name? One with dots is quoted: [plugins.\"order.paid\"]"
        ),
        Some(nearest) if strsim::jaro(nearest, unknown) > 0.7 => format!("no key {key:?}; did you mean {nearest:?}?"),
        _ => format!("no key {key:?}; there are {}", known.join(", ")),
    };
    Err(InvalidSettings::new(words).at(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_with_its_line_and_column() {
        let text = "types = []\n\n[limits]\n  wall_ms = 5\nretry = { trap = { max = 1 } }\n";
        let place = |path: &[&str]| place_of_key(text, &path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(place(&["types"]).as_deref(), Some("line 1, column 1"));
        assert_eq!(place(&["limits", "wall_ms"]).as_deref(), Some("line 4, column 3"));
        assert_eq!(place(&["limits", "retry", "trap", "max"]).as_deref(), Some("line 5, column 20"));
        assert_eq!(place(&["limits", "none"]).as_deref(), Some("line 3, column 2"), "the table around it");
        assert_eq!(place(&["none"]), None);
        assert_eq!(place_of_byte("é\nab", 4), "line 2, column 2");
    }
}
