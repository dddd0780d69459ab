//! The address of the broker, which shows itself without its password.

use std::fmt;

use crate::secret::{RedactedText, RedactedUrl, SecretText};

/// The address of the broker. It may contain a password, so `Display` and `Debug` hide it.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(SecretText);

impl BrokerUrl {
    /// Returns the address with its password.
    pub fn as_str(&self) -> &str {
        self.0.expose()
    }
}

impl From<String> for BrokerUrl {
    fn from(url: String) -> Self {
        Self(url.into())
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.as_str();
        if url.starts_with("embedded:") { RedactedText(url).fmt(f) } else { RedactedUrl(url).fmt(f) }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}
