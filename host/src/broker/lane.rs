//! A lane: the queue of one plugin's events.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::event::{EventRecord, is_plugin_name};

/// The queue of one plugin's events, so that no plugin's events wait behind another's (G8).
///
/// Lanes isolate plugins and nothing more: the worker chooses the plugin by the event's type, whatever lane it comes
/// from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(Arc<str>);

impl Lane {
    /// The lane of events that no plugin handles. No plugin can have its name.
    pub fn unrouted() -> Self {
        Self("_".into())
    }

    /// The lane that a failed event counts against in a store that did not fail it: that of the plugin that handled it
    /// last.
    pub fn of_failed(record: &EventRecord) -> Self {
        let plugin = record.attempts.last().and_then(|last| last.plugin.as_deref());
        plugin.and_then(|plugin| plugin.parse().ok()).unwrap_or_else(Self::unrouted)
    }

    /// The name of the lane, which is that of its plugin.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Lane {
    type Err = InvalidLane;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == "_" || is_plugin_name(name) {
            return Ok(Self(name.into()));
        }
        Err(InvalidLane)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Lane {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Lane {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The text is not the name of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lane is 1 to 128 letters, digits and ._- and starts with a letter or digit")]
pub struct InvalidLane;
