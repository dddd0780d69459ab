//! The description of a plugin's file.

use serde::Serialize;

use crate::plugin::Plugin;

/// A description of a plugin's file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginFacts {
    /// The name that the plugin would have.
    pub name: String,
    /// The version that the plugin states.
    pub version: Option<String>,
    /// The description that the plugin states.
    pub description: Option<String>,
    /// The interface by which it would be called.
    pub dialect: String,
    /// The event types that it would handle.
    pub types: Vec<String>,
    /// The size of the file.
    pub size_bytes: u64,
    /// The SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// The memory that each attempt starts with.
    pub initial_memory_bytes: u64,
    /// The most memory of an attempt.
    pub memory_limit_bytes: u64,
}

impl PluginFacts {
    pub(super) fn of(plugin: &Plugin) -> Self {
        Self {
            name: plugin.name().to_owned(),
            version: plugin.version().map(str::to_owned),
            description: plugin.description().map(str::to_owned),
            dialect: plugin.dialect().interface(),
            types: plugin.patterns().iter().map(ToString::to_string).collect(),
            size_bytes: plugin.size_bytes(),
            digest: plugin.digest().to_owned(),
            imports: plugin.imports(),
            initial_memory_bytes: plugin.initial_memory_bytes(),
            memory_limit_bytes: plugin.limits().memory_bytes,
        }
    }
}
