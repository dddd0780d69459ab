//! What is wrong with settings: an unknown key or a value that does not fit, with the file, line and column.
//!
//! An unknown key is refused with the nearest known one.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::secret::without_value;

/// The settings cannot be used. A person has to change them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the settings are wrong: {}{words}", .place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default())]
pub struct InvalidSettings {
    words: String,
    /// The file, if there is one, with line and column.
    place: Option<String>,
    /// The key, with the tables around it.
    path: Vec<String>,
    /// The key itself is wrong, not its value.
    is_unknown_key: bool,
}

impl InvalidSettings {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), place: None, path: Vec::new(), is_unknown_key: false }
    }

    /// A key is not known, or a value does not fit its key. The message says what was expected and leaves out the value, which
    /// may be a secret.
    fn of_toml(error: &toml::de::Error, place: &[&str], table: &Table) -> Self {
        let shown = error.to_string();
        let key = shown.trim_end().rsplit_once("\nin `").map(|(_, key)| key.trim_end_matches('`'));
        let path = [place, &key.iter().flat_map(|key| key.split('.')).collect::<Vec<_>>()].concat();
        if let Some((unknown, known)) = unknown_key(error.message()) {
            let may_be_name = path.is_empty() && table.get(unknown).is_some_and(Value::is_table);
            return Self::unknown(&[&path[..], &[unknown]].concat(), &known, may_be_name);
        }
        let words = without_value(error.message().trim_end());
        Self::new(key.map_or(words.clone(), |key| format!("{words} in `{key}`"))).at(&path)
    }

    fn unknown(path: &[&str], known: &[&str], may_be_name: bool) -> Self {
        let (key, name) = (path.join("."), path.last().copied().unwrap_or_default());
        let nearest = known.iter().max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
        let words = match nearest {
            _ if may_be_name => format!(
                "no key {key:?}; is it part of the plugin's name? One with dots is quoted: [plugins.\"order.paid\"]"
            ),
            Some(nearest) if strsim::jaro(nearest, name) > 0.7 => {
                format!("no key {key:?}; did you mean {nearest:?}?")
            }
            _ => format!("no key {key:?}; there are {}", known.join(", ")),
        };
        Self { is_unknown_key: true, ..Self::new(words).at(path) }
    }

    /// Adds the key.
    pub(super) fn at(self, path: &[&str]) -> Self {
        Self { path: path.iter().map(|name| (*name).to_owned()).collect(), ..self }
    }

    /// Adds the position in the text: that of the byte, unless the key is unknown; or else that of the key.
    pub(super) fn placed(self, text: &str, byte: Option<usize>) -> Self {
        let byte = byte.filter(|_| !self.is_unknown_key);
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

/// Reads settings, or the part of them that lies at `place`.
pub(super) fn read<T: DeserializeOwned>(place: &[&str], table: Table) -> Result<T, InvalidSettings> {
    table.clone().try_into().map_err(|error| InvalidSettings::of_toml(&error, place, &table))
}

/// The unknown key and the known ones in a message of `serde`.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let (unknown, known) = message.trim_end().strip_prefix("unknown field `")?.rsplit_once("`, expected ")?;
    Some((unknown, known.split('`').skip(1).step_by(2).collect()))
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

    #[test]
    fn the_known_keys_are_read_from_the_message_of_serde() {
        for (expected, known) in
            [("`http`", &["http"][..]), ("`a` or `b`", &["a", "b"]), ("one of `a`, `b`, `c`", &["a", "b", "c"])]
        {
            let message = format!("unknown field `x`y`, expected {expected}");
            assert_eq!(unknown_key(&message), Some(("x`y", known.to_vec())));
        }
        assert_eq!(unknown_key("invalid type: string, expected a map"), None);
    }
}
