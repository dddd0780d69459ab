//! What is wrong with settings, with the file, line and column.

use std::path::Path;

use super::position;
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
        let place = byte.map(|byte| position::of_byte(text, byte)).or_else(|| position::of_key(text, &self.path));
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
