//! `eventstream.toml`, the environment, and the settings of one plugin.

use std::path::Path;

use eventstream::config::{Config, ConfigFault, Error};
use eventstream::plugin::PluginSettings;

const FILE: &str = "eventstream.toml";
/// The beginning of every variable that is read.
const PREFIX: &str = "EVENTSTREAM_";
/// The shortest secret that an error is searched for. A shorter text may be there for another reason.
const MIN_SECRET_CHARS: usize = 12;

/// The text is read as a configuration, as settings of a plugin, and as variables of the environment. It is accepted, or
/// refused with the place of the fault. No error contains a secret.
///
/// # Panics
/// Something that must hold does not.
pub fn settings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let file = || Config::from_layers(Some((Path::new(FILE), text)), &[], &[]);
    match (file(), file()) {
        (Ok(config), Ok(again)) => assert_eq!(config, again),
        (Err(Error::Invalid(faults)), Err(_)) => {
            let lines = text.matches('\n').count() + 1;
            stand_somewhere(&faults, |place| {
                let line = place.strip_prefix(FILE).and_then(|rest| rest.strip_prefix(", line "));
                line.and_then(|line| line.parse().ok()).is_some_and(|line: usize| (1..=lines).contains(&line))
            });
        }
        (read, again) => panic!("the same text gave {read:?} and {again:?}"),
    }
    environment(text);
    plugin(text);
}

fn environment(text: &str) {
    let variables: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (format!("{PREFIX}{}", name.trim().to_uppercase().replace('.', "_")), value.trim()))
        .map(|(name, value)| (name, value.trim_matches('"').to_owned()))
        .collect();
    match Config::from_layers(None, &variables, &[]) {
        Ok(_) => {}
        Err(Error::Invalid(faults)) => {
            stand_somewhere(&faults, |place| variables.iter().any(|(name, _)| name == place));
        }
        Err(error) => panic!("{error}"),
    }
}

fn stand_somewhere(faults: &[ConfigFault], is_place: impl Fn(&str) -> bool) {
    assert!(!faults.is_empty(), "a refusal says why");
    for ConfigFault { place, message } in faults {
        assert!(is_place(place), "{place:?} is a place: {message}");
        assert!(!message.trim().is_empty());
    }
}

fn plugin(text: &str) {
    let Err(error) = PluginSettings::parse(text) else { return };
    let words = error.to_string();
    let reported = words.strip_prefix("the settings are wrong: ").expect("it says what is wrong");
    assert!(!reported.trim().is_empty());
    let Ok(table) = text.parse::<toml::Table>() else {
        assert!(reported.starts_with("line "), "{reported:?} names the line");
        return;
    };
    let is_named = table.keys().any(|key| reported.contains(key.as_str()) || reported.contains(&format!("{key:?}")));
    assert!(is_named, "{reported:?} names a key of {table}");
    for secret in table.get("secrets").map(texts).unwrap_or_default() {
        let is_reported = secret.chars().count() >= MIN_SECRET_CHARS && reported.contains(&secret);
        assert!(!is_reported, "{reported:?} shows a secret");
    }
}

/// Every text in a value.
fn texts(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Array(values) => values.iter().flat_map(texts).collect(),
        toml::Value::Table(table) => table.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}
