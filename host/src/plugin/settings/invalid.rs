//! What is wrong with settings, and in which file, line and column it stands.

use std::path::Path;

use super::position;
use crate::secret::without_value;

/// Settings that cannot be used. A person has to change them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the settings are wrong: {}{words}", .place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default())]
pub struct InvalidSettings {
    words: String,
    /// The file, if there is one, and the line and the column in it.
    place: Option<String>,
    /// The key, by the tables that it stands in.
    path: Vec<String>,
}

impl InvalidSettings {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), place: None, path: Vec::new() }
    }

    /// Of a value that does not fit its key: what was expected, not the value itself, which may be a secret.
    pub(super) fn unfit(error: &toml::de::Error) -> Self {
        let shown = error.to_string();
        let key = shown.trim_end().rsplit_once("\nin ").map(|(_, key)| format!(" in {key}"));
        Self::new(format!("{}{}", without_value(error.message().trim_end()), key.unwrap_or_default()))
    }

    pub(super) fn at(self, path: &[&str]) -> Self {
        Self { path: path.iter().map(|name| (*name).to_owned()).collect(), ..self }
    }

    /// The same with the place in the text that was read.
    pub(super) fn placed(self, text: &str, byte: Option<usize>) -> Self {
        let place = byte.map(|byte| position::of_byte(text, byte)).or_else(|| position::of_key(text, &self.path));
        Self { place, ..self }
    }

    /// The same with the name of the file that was read.
    pub(in crate::plugin) fn in_file(self, path: &Path) -> Self {
        let file = path.display();
        let place = match &self.place {
            Some(place) => format!("{file}, {place}"),
            None => file.to_string(),
        };
        Self { place: Some(place), ..self }
    }

    /// Of a file that cannot be read.
    pub(in crate::plugin) fn unread(file: &str, error: &std::io::Error) -> Self {
        Self::new(format!("{file} cannot be read: {error}"))
    }
}
