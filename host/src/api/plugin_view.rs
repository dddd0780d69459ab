//! The JSON of a plugin. Handlers turn it into a `serde_json::Value` first, which sorts the members by name.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::event::{AttemptLimits, Timestamp, TypePattern};

/// A plugin. Unless said otherwise, members about a version describe the one that serves.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginView {
    /// The name.
    pub name: String,
    /// Whether it serves, and if not, why.
    #[serde(rename = "state")]
    pub status: PluginStatusView,
    /// Why the file in the directory does not serve, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// After a rollback: the SHA-256, in hexadecimal, of the file that does not serve until it is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back_from: Option<String>,
    /// The build in the directory, if it waits for approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_approval: Option<ApprovalView>,
    /// When the file disappeared, by this host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Timestamp>,
    /// The SHA-256 of the file, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The version that the plugin states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The description that the plugin states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The interface by which the plugin is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// The event types that it handles.
    pub types: Vec<TypePattern>,
    /// The limits of an attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<AttemptLimits>,
    /// The most attempts at a time on one host, if there is such a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// The most events that may wait in the deployment, if its settings say so.
    pub max_waiting: Option<u64>,
    /// How instances are reused, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reuse: Option<ReuseView>,
    /// The size of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Calls refused for want of a grant since it was loaded, by capability.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<&'static str, u64>,
    /// When it was loaded, by this host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<Timestamp>,
}

/// Whether a plugin serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginStatusView {
    /// The file in the directory serves.
    Active,
    /// The file in the directory is being loaded. An earlier version may serve meanwhile.
    Compiling,
    /// The file in the directory cannot serve, and no earlier version does.
    Failed,
    /// The file in the directory cannot serve. The version before it still does.
    FailedKeptLastGood,
    /// The build in the directory waits for approval.
    NeedsApproval,
    /// The file disappeared. Events of its types wait for a plugin.
    Removed,
}

/// A build that waits for approval.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalView {
    /// The SHA-256 of its file, in hexadecimal.
    pub digest: String,
    /// The interfaces that it imports and the serving version does not.
    pub imports: Vec<String>,
    /// The event types that it would take from other plugins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub takes: Vec<TakenTypesView>,
}

/// Event types that a build would take from another plugin.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenTypesView {
    /// The event types.
    pub types: TypePattern,
    /// The plugin that handles them now.
    pub plugin: String,
}

/// How the instances of a plugin are reused.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReuseView {
    /// The most events that an instance handles.
    pub max_events: u32,
    /// How long an instance waits for its next event, in milliseconds.
    pub idle_ms: u64,
}

/// A plugin whose file was removed.
#[derive(Clone, Debug, Serialize)]
pub struct RemovedPlugin {
    /// The plugin after the removal.
    #[serde(flatten)]
    pub plugin: PluginView,
    /// The file that was removed.
    pub file: String,
    /// The settings beside it, which stay.
    pub settings: Option<String>,
}
