//! Reads one value of a setting as the type that the setting needs.
//!
//! The environment and flags provide text for every type. A file has types, and a number in quotes is not a number there.
//! An error names the expected type and the type of the value. It never quotes a text, which may be a password in the
//! wrong place. The caller adds the setting and the place.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::Value;

use crate::secret::is_address;

/// The value of a setting. It may be a secret in the wrong place, so it is never shown.
#[derive(Clone, Copy)]
pub(super) enum SettingValue<'a> {
    /// From the environment or a flag.
    Text(&'a str),
    /// From a file.
    Toml(&'a Value),
}

/// What was expected and what was found, as part of a message.
pub(super) type ValueMismatch = String;

impl SettingValue<'_> {
    pub(super) fn text(self) -> Result<String, ValueMismatch> {
        match self {
            Self::Text(text) => Ok(text.to_owned()),
            Self::Toml(Value::String(text)) => Ok(text.clone()),
            Self::Toml(_) => Err(self.mismatch("a text in quotes")),
        }
    }

    /// A path, or `None` for an empty text. An address may hold a password, and is not the name of a directory.
    pub(super) fn directory(self) -> Result<Option<PathBuf>, ValueMismatch> {
        let path = self.text().ok().filter(|path| !is_address(path)).ok_or_else(|| self.mismatch("a directory"))?;
        Ok(Some(path).filter(|path| !path.is_empty()).map(PathBuf::from))
    }

    pub(super) fn boolean(self) -> Result<bool, ValueMismatch> {
        match self {
            Self::Text("true") | Self::Toml(Value::Boolean(true)) => Ok(true),
            Self::Text("false") | Self::Toml(Value::Boolean(false)) => Ok(false),
            _ => Err(self.mismatch("true or false")),
        }
    }

    pub(super) fn whole_number(self, range: RangeInclusive<u64>) -> Result<u64, ValueMismatch> {
        let number = match self {
            Self::Text(text) => text.parse().ok(),
            Self::Toml(Value::Integer(number)) => u64::try_from(*number).ok(),
            Self::Toml(_) => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| match (*range.start(), *range.end()) {
            (start, u64::MAX) => self.mismatch(&format!("a whole number from {start} up")),
            (start, end) => self.mismatch(&format!("a whole number from {start} to {end}")),
        })
    }

    pub(super) fn factor(self) -> Result<f64, ValueMismatch> {
        let number = match self {
            Self::Text(text) => text.parse().ok(),
            Self::Toml(Value::Float(number)) => Some(*number),
            Self::Toml(Value::Integer(number)) => Some(*number as f64),
            Self::Toml(_) => None,
        };
        number.filter(|number| (1.0..=1_000.0).contains(number)).ok_or_else(|| self.mismatch("a number from 1 to 1000"))
    }

    /// A duration such as `30s`, in milliseconds; at least one.
    pub(super) fn duration_ms(self) -> Result<u64, ValueMismatch> {
        let expected = || self.mismatch("a duration such as \"30s\", \"24h\" or \"7d\"");
        let text = self.text().map_err(|_| expected())?;
        let duration = humantime::parse_duration(&text).map_err(|_| expected())?;
        u64::try_from(duration.as_millis()).ok().filter(|ms| *ms > 0).ok_or_else(expected)
    }

    pub(super) fn one_of<'o>(self, options: &[&'o str]) -> Result<&'o str, ValueMismatch> {
        let chosen = self.text().ok().and_then(|text| options.iter().find(|option| **option == text).copied());
        chosen.ok_or_else(|| self.mismatch(&format!("one of {}", options.join(", "))))
    }

    /// A text of 1 to `max_chars` letters, digits, dots, dashes and underscores.
    pub(super) fn name(self, max_chars: usize) -> Result<String, ValueMismatch> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name =
            self.text().ok().filter(|name| !name.is_empty() && name.len() <= max_chars && name.chars().all(fits));
        name.ok_or_else(|| self.mismatch(&format!("1 to {max_chars} letters, digits and ._-")))
    }

    pub(super) fn address(self) -> Result<SocketAddr, ValueMismatch> {
        let text = self.text().unwrap_or_default();
        let address = text.parse().ok().or_else(|| resolve_address(&text));
        address.ok_or_else(|| {
            self.mismatch("an address and a port such as \"127.0.0.1:3000\", \"localhost:3000\" or \"[::]:3000\"")
        })
    }

    pub(super) fn mismatch(self, expected: &str) -> ValueMismatch {
        match self {
            Self::Toml(value @ (Value::Integer(_) | Value::Float(_) | Value::Boolean(_))) => {
                format!("{} is not {expected}", value.to_string().trim_end())
            }
            Self::Toml(Value::Array(_)) => format!("a list is not {expected}"),
            Self::Toml(Value::Table(_)) => format!("a table is not {expected}"),
            Self::Toml(Value::Datetime(_)) => format!("a time is not {expected}"),
            Self::Toml(Value::String(_)) => format!("the text in quotes is not {expected}"),
            Self::Text(_) => format!("the value is not {expected}"),
        }
    }
}

/// Resolves a name and a port, to IPv4 where the name has such an address. `localhost` needs no resolver.
fn resolve_address(text: &str) -> Option<SocketAddr> {
    let (name, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    if name.eq_ignore_ascii_case("localhost") {
        return Some((Ipv4Addr::LOCALHOST, port).into());
    }
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let addresses: Vec<SocketAddr> = (is_name.then_some(name)?, port).to_socket_addrs().ok()?.collect();
    addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied()
}
