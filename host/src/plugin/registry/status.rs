//! What can be told of a plugin: for `GET /plugins` and for the lines at the start.

use std::collections::BTreeMap;

use serde::Serialize;

use super::approval::HeldBuild;
use crate::event::Timestamp;
use crate::plugin::{AttemptLimits, Plugin, ReusePolicy, TypePattern};

/// How a plugin stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginStatus {
    /// The file in the directory serves.
    Active,
    /// The file in the directory is being loaded; an earlier version may serve meanwhile.
    Compiling,
    /// The file in the directory cannot serve, and nothing else does.
    Failed,
    /// The file in the directory cannot serve; the version that served before still does.
    FailedKeptLastGood,
    /// The file in the directory is a build that can do more than the version that serves, and is to be approved first.
    NeedsApproval,
    /// The file went from the directory; events of its types wait for a plugin.
    Removed,
}

/// A build that is to be approved before it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NeedsApproval {
    /// The SHA-256 of its file, in hexadecimal.
    pub digest: String,
    /// The interfaces that it imports and the version that serves does not, without their versions.
    pub imports: Vec<String>,
    /// The types that it would take from other plugins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub takes: Vec<TakenTypes>,
}

/// Types that a build would take from another plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenTypes {
    /// The types.
    pub types: TypePattern,
    /// The plugin that handles them.
    pub plugin: String,
}

impl NeedsApproval {
    pub(in crate::plugin) fn of(held: &HeldBuild) -> Self {
        Self {
            digest: held.plugin.digest().to_owned(),
            imports: held.new.imports.clone(),
            takes: held.new.takes.clone(),
        }
    }
}

/// What can be told of a plugin. What is told of a version is told of the one that serves.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginReport {
    /// The name.
    pub name: String,
    /// How it stands.
    pub state: PluginStatus,
    /// Why the file in the directory does not serve, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The SHA-256 of the file in the directory, in hexadecimal, if an earlier version was brought back and serves in its
    /// place until the file is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back_from: Option<String>,
    /// The build in the directory, if it is to be approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_approval: Option<NeedsApproval>,
    /// When the file went, by the clock of this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Timestamp>,
    /// The SHA-256 of the file, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The version that it says it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it says it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The interface by which it takes events: ours, or that of another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// The types that it handles.
    pub types: Vec<TypePattern>,
    /// What an attempt may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<AttemptLimits>,
    /// How many attempts may run side by side on one host, if that is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// How many of its events may wait in the deployment, if its settings say it.
    pub max_waiting: Option<u64>,
    /// How instances are used again, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reuse: Option<ReusePolicy>,
    /// The size of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// How many calls were denied for want of a grant since it serves, by capability.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<&'static str, u64>,
    /// Since when it serves, by the clock of this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<Timestamp>,
}

impl PluginReport {
    /// The status of a plugin whose file went.
    pub(in crate::plugin) fn removed(name: &str, at: Timestamp) -> Self {
        Self { removed_at: Some(at), ..Self::new(name, PluginStatus::Removed, None, None) }
    }

    /// The status of a plugin of which `serving` serves, if anything.
    pub(in crate::plugin) fn new(
        name: &str,
        state: PluginStatus,
        error: Option<String>,
        serving: Option<&Plugin>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            state,
            error,
            rolled_back_from: None,
            needs_approval: None,
            removed_at: None,
            digest: serving.map(|plugin| plugin.digest().to_owned()),
            version: serving.and_then(|plugin| plugin.version.clone()),
            description: serving.and_then(|plugin| plugin.description.clone()),
            dialect: serving.map(|plugin| plugin.dialect().interface()),
            types: serving.map_or_else(Vec::new, |plugin| plugin.patterns.clone()),
            limits: serving.map(|plugin| *plugin.limits()),
            concurrency: serving.and_then(Plugin::concurrency),
            max_waiting: serving.and_then(Plugin::max_waiting),
            reuse: serving.and_then(|plugin| plugin.settings.reuse),
            size_bytes: serving.map(|plugin| plugin.size_bytes),
            denied: serving.map(Plugin::denied).unwrap_or_default(),
            loaded_at: serving.map(|plugin| plugin.loaded_at),
        }
    }
}
