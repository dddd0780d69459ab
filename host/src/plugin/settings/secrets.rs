//! The secrets of plugins: values that appear in no log, no record and no answer.
//!
//! A value is a text in the settings, a variable of the environment or a file, and is read when the plugin is loaded. Before
//! anything that a guest says about itself is kept or shown, its secrets are replaced. What a guest returns or publishes is
//! data and is left unchanged.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::regular_file;
use crate::secret::SecretText;

/// The shortest value, in bytes. A shorter one could be guessed, and occurs in ordinary text.
const MIN_BYTES: usize = 6;
/// The shortest part of a value, in bytes, that is hidden where a cut left it. A shorter part reveals nothing.
const PART_BYTES: usize = 4;
/// The largest file of a secret, in bytes.
const MAX_BYTES: u64 = 64 * 1_024;

/// Where the value of a secret comes from.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a secret is a text, { env = \"NAME\" } or { file = \"PATH\" }")]
pub enum SecretSource {
    /// The value itself.
    Text(SecretText),
    /// A variable of the environment.
    Env(FromEnvironment),
    /// A file. Trailing white space is removed.
    File(FromFile),
}

/// The variable that holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct FromEnvironment {
    env: String,
}

/// The file that holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct FromFile {
    file: PathBuf,
}

/// Accepts only a table. A list with a secret in it would be taken for the name of a variable, which is shown.
impl TryFrom<BTreeMap<String, String>> for FromEnvironment {
    type Error = &'static str;

    fn try_from(table: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        sole_value(table, "env").map(|env| Self { env }).ok_or("not { env = \"NAME\" }")
    }
}

impl TryFrom<BTreeMap<String, String>> for FromFile {
    type Error = &'static str;

    fn try_from(table: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        sole_value(table, "file").map(|file| Self { file: file.into() }).ok_or("not { file = \"PATH\" }")
    }
}

/// The value of a table's only key.
fn sole_value(mut table: BTreeMap<String, String>, key: &str) -> Option<String> {
    table.remove(key).filter(|_| table.is_empty())
}

/// Shows the source, never the value.
impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("these settings"),
            Self::Env(FromEnvironment { env }) => write!(f, "the variable {env}"),
            Self::File(FromFile { file }) => write!(f, "the file {file:?}"),
        }
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(secret) => f.debug_tuple("Text").field(secret).finish(),
            Self::Env(source) => source.fmt(f),
            Self::File(source) => source.fmt(f),
        }
    }
}

/// Why a secret has no value. The message never holds a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment lacks the variable.
    #[error("the secret {name:?} comes from the variable {variable}, which is not set")]
    NoVariable {
        /// The secret.
        name: String,
        /// The variable.
        variable: String,
    },
    /// The file cannot be read as text.
    #[error("the secret {name:?} cannot be read from {file:?}: {error}")]
    NoFile {
        /// The secret.
        name: String,
        /// The file.
        file: PathBuf,
        /// The error of the system.
        error: std::io::Error,
    },
    /// The value is too short to be kept secret.
    #[error(
        "the secret {0:?} has less than {MIN_BYTES} bytes: it could not be distinguished from ordinary text in a log"
    )]
    TooShort(String),
}

/// The secrets of one plugin.
#[derive(Clone, Default)]
pub(in crate::plugin) struct PluginSecrets {
    values: BTreeMap<String, SecretText>,
    /// The texts to hide, each with the name of its secret; the longest first.
    hidden: Vec<(String, String)>,
}

impl PluginSecrets {
    /// Reads the values. Blocks.
    pub(in crate::plugin) fn read(sources: &BTreeMap<String, SecretSource>) -> Result<Self, SecretError> {
        let values = sources
            .iter()
            .map(|(name, source)| {
                let value = value(name, source)?;
                if value.expose().len() < MIN_BYTES {
                    return Err(SecretError::TooShort(name.clone()));
                }
                Ok((name.clone(), value))
            })
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        let mut hidden: Vec<(String, String)> = Vec::new();
        for (name, value) in &values {
            let value = value.expose();
            hidden.push((value.to_owned(), name.clone()));
            // The lines of a value may be logged one by one.
            let lines = value.lines().map(str::trim).filter(|line| line.len() >= MIN_BYTES && *line != value);
            hidden.extend(lines.map(|line| (line.to_owned(), name.clone())));
            hidden.extend(encoded_forms(value).into_iter().map(|form| (form, name.clone())));
        }
        hidden.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        hidden.dedup();
        Ok(Self { values, hidden })
    }

    /// The value of a secret.
    pub(in crate::plugin) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(SecretText::expose)
    }

    /// The length of the longest hidden text, in bytes.
    pub(in crate::plugin) fn longest_bytes(&self) -> usize {
        self.hidden.first().map_or(0, |(text, _)| text.len())
    }

    /// Replaces each value by the name of its secret. Ignores case, since names of hosts are written in lower case.
    pub(in crate::plugin) fn hide(&self, text: &str) -> String {
        if self.hidden.is_empty() {
            return text.to_owned();
        }
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        'rest: while let Some(first) = rest.chars().next() {
            for (hidden, name) in &self.hidden {
                let is_it = |begin: &str| begin.eq_ignore_ascii_case(hidden);
                if rest.get(..hidden.len()).is_some_and(is_it) {
                    shown.push_str(&format!("[secret {name}]"));
                    rest = &rest[hidden.len()..];
                    continue 'rest;
                }
            }
            shown.push(first);
            rest = &rest[first.len_utf8()..];
        }
        shown
    }

    /// The same for a text whose end may have been cut off: removes the beginning of a value there.
    pub(in crate::plugin) fn hide_cut_end(&self, text: &str) -> String {
        let (text, cut) = text.strip_suffix('…').map_or((text, ""), |text| (text, "…"));
        let mut shown = self.hide(text);
        let is_begun = |at: &usize| {
            shown.len() - at >= PART_BYTES && self.hidden.iter().any(|(it, _)| it.starts_with(&shown[*at..]))
        };
        let longest = shown.floor_char_boundary(shown.len().saturating_sub(self.longest_bytes()));
        let begun = shown[longest..].char_indices().map(|(at, _)| longest + at).find(is_begun);
        shown.truncate(begun.unwrap_or(shown.len()));
        shown + cut
    }

    /// The same for a text whose beginning was cut off: removes the end of a value there.
    pub(in crate::plugin) fn hide_cut_start(&self, text: &str) -> String {
        let mut shown = self.hide(text);
        let is_ended =
            |end: &usize| *end >= PART_BYTES && self.hidden.iter().any(|(it, _)| it.ends_with(&shown[..*end]));
        let ends = shown.char_indices().map(|(at, _)| at).take_while(|at| *at <= self.longest_bytes());
        let ended = ends.filter(is_ended).max().unwrap_or(0);
        shown.split_off(ended)
    }
}

impl fmt::Debug for PluginSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// The forms of a value in URLs, in JSON and debug output, and in headers.
fn encoded_forms(value: &str) -> Vec<String> {
    let json = serde_json::to_string(value).unwrap_or_default();
    let percent = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    let mut forms = vec![
        json.trim_matches('"').to_owned(),
        value.escape_debug().to_string(),
        value.bytes().map(percent).collect(),
        STANDARD_NO_PAD.encode(value),
        URL_SAFE_NO_PAD.encode(value),
    ];
    forms.retain(|form| form != value);
    forms
}

fn value(name: &str, source: &SecretSource) -> Result<SecretText, SecretError> {
    match source {
        SecretSource::Text(text) => Ok(text.clone()),
        SecretSource::Env(FromEnvironment { env }) => std::env::var(env)
            .map(SecretText::from)
            .map_err(|_| SecretError::NoVariable { name: name.to_owned(), variable: env.clone() }),
        SecretSource::File(FromFile { file }) => {
            let no_file = |error| SecretError::NoFile { name: name.to_owned(), file: file.clone(), error };
            let mut text = String::new();
            let opened = regular_file::open(file).map_err(no_file)?;
            opened.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(no_file)?;
            if text.len() as u64 > MAX_BYTES {
                return Err(no_file(std::io::Error::other(format!("it has more than {MAX_BYTES} bytes"))));
            }
            Ok(text.trim_end().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[(&str, &str)]) -> PluginSecrets {
        let sources =
            values.iter().map(|(name, value)| ((*name).to_owned(), SecretSource::Text((*value).into()))).collect();
        PluginSecrets::read(&sources).unwrap()
    }

    #[test]
    fn every_occurrence_of_a_value_is_hidden_the_longest_first() {
        let secrets = secrets(&[("a", "hunter2"), ("b", "hunter2hunter"), ("key", "line one\nline two")]);
        assert_eq!(secrets.hide("é hunter2, hunter2hunter!"), "é [secret a], [secret b]!");
        assert_eq!(secrets.hide("x line two"), "x [secret key]");
        assert_eq!(secrets.hide("nothing"), "nothing");
        assert!(!format!("{secrets:?}").contains("hunter"), "{secrets:?}");
    }

    #[test]
    fn a_value_is_hidden_however_it_is_written() {
        let secrets = secrets(&[("a", "Hun/ter\"2\n?")]);
        for text in ["hun/TER\"2\n?", "Hun/ter\\\"2\\n?", "Hun%2Fter%222%0A%3F", "SHVuL3RlciIyCj8="] {
            let shown = secrets.hide(&format!("it is {text}."));
            assert!(shown.starts_with("it is [secret a]") && shown.len() < 20, "{shown}");
        }
    }

    #[test]
    fn a_part_of_a_value_at_a_cut_is_hidden_too() {
        let secrets = secrets(&[("a", "hunter2")]);
        assert_eq!(secrets.hide_cut_end("said hunte"), "said ");
        assert_eq!(secrets.hide_cut_end("said hunte…"), "said …");
        assert_eq!(secrets.hide_cut_end("hunter2 said h"), "[secret a] said h");
        assert_eq!(secrets.hide_cut_start("ter2 was said"), " was said");
        assert_eq!(secrets.hide_cut_start("was said"), "was said");
    }

    #[test]
    fn values_come_from_files_and_are_never_part_of_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file\n").unwrap();
        let json = format!("{{ \"a\": {{ \"file\": {:?} }} }}", file.path());
        let sources: BTreeMap<String, SecretSource> = serde_json::from_str(&json).unwrap();
        assert_eq!(PluginSecrets::read(&sources).unwrap().get("a"), Some("from a file"));
        for (text, words) in [
            (r#"{"a":"short"}"#, "less than"),
            (r#"{"a":{"env":"EVENTSTREAM_NO_SUCH"}}"#, "EVENTSTREAM_NO_SUCH"),
            (r#"{"a":{"file":"/nowhere"}}"#, "/nowhere"),
        ] {
            let sources: BTreeMap<String, SecretSource> = serde_json::from_str(text).unwrap();
            let error = PluginSecrets::read(&sources).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("short"), "{error}");
        }
    }
}
