//! Whether a store works, and how durable it is.

use serde::Serialize;

/// Whether a store works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreHealth {
    /// How durable an accepted event is.
    pub durability: Durability,
    /// What an operator should change although the store works.
    pub warning: Option<String>,
    /// Why the store does not work, as a sentence for an operator; `None` if it works.
    pub trouble: Option<String>,
    /// Whether the store accepts events.
    pub accepting: bool,
    /// Whether accepted events are handled.
    pub handling: bool,
}

impl StoreHealth {
    /// The health of a store without trouble.
    pub fn good(durability: Durability) -> Self {
        Self { durability, warning: None, trouble: None, accepting: true, handling: true }
    }

    /// Whether the store accepts events and accepted events are handled.
    pub fn ready(&self) -> bool {
        self.trouble.is_none()
    }
}

/// How durable an accepted event is (G1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is on stable storage before the answer.
    Fsync,
    /// It is on stable storage about a second after the answer.
    Everysec,
    /// The operating system writes it at some time, or never.
    None,
    /// The store does not say.
    Unknown,
}

impl Durability {
    /// The value as answers, logs and metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Everysec => "everysec",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}
