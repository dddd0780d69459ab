//! What is known of one plugin, as the registry reports it and as the API writes it in JSON.
//!
//! Handlers turn a report into a `serde_json::Value` first, which sorts the members by name.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::event::{AttemptLimits, Timestamp, TypePattern};

/// The report on one plugin, which the registry writes and the API serves. Unless said otherwise, members about a version
/// describe the one that serves.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginReport {
    /// The name.
    pub name: String,
    /// Whether it serves, and if not, why.
    #[serde(rename = "state")]
    pub status: PluginStatus,
    /// Why the file in the directory does not serve, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// After a rollback: the SHA-256, in hexadecimal, of the file that does not serve until it is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back_from: Option<String>,
    /// The build in the directory, if it waits for approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_approval: Option<NeedsApproval>,
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
    pub reuse: Option<ReuseReport>,
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
pub enum PluginStatus {
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NeedsApproval {
    /// The SHA-256 of its file, in hexadecimal.
    pub digest: String,
    /// The interfaces that it imports and the serving version does not.
    pub imports: Vec<String>,
    /// The event types that it would take from other plugins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub takes: Vec<TakenTypes>,
}

/// Event types that a build would take from another plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenTypes {
    /// The event types.
    pub types: TypePattern,
    /// The plugin that handles them now.
    pub plugin: String,
}

/// How the instances of a plugin are reused.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReuseReport {
    /// The most events that an instance handles.
    pub max_events: u32,
    /// How long an instance waits for its next event, in milliseconds.
    pub idle_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_shown_with_every_member_of_its_report() {
        let report = PluginReport {
            name: "p".into(),
            status: PluginStatus::FailedKeptLastGood,
            error: Some("e".into()),
            rolled_back_from: Some("r".into()),
            needs_approval: Some(NeedsApproval {
                digest: "h".into(),
                imports: vec!["i".into()],
                takes: vec![TakenTypes { types: "a.*".parse().unwrap(), plugin: "q".into() }],
            }),
            removed_at: Some(Timestamp::from_unix_ms(1)),
            digest: Some("d".into()),
            version: Some("v".into()),
            description: Some("s".into()),
            dialect: Some("w".into()),
            types: vec!["a".parse().unwrap()],
            limits: Some(AttemptLimits::default()),
            concurrency: Some(2),
            max_waiting: Some(3),
            reuse: Some(ReuseReport { max_events: 100, idle_ms: 10_000 }),
            size_bytes: Some(4),
            denied: BTreeMap::from([("http", 1)]),
            loaded_at: Some(Timestamp::from_unix_ms(2)),
        };
        let view = serde_json::to_value(report).unwrap();
        assert_eq!(
            view.to_string(),
            concat!(
                r#"{"concurrency":2,"denied":{"http":1},"description":"s","dialect":"w","digest":"d","error":"e","#,
                r#""limits":{"cpuMs":1000,"hostCallBytes":16777216,"httpRequestBytes":1048576,"httpRequests":8,"#,
                r#""httpResponseBytes":1048576,"httpTimeoutMs":5000,"logLineBytes":4096,"logLines":64,"#,
                r#""memoryBytes":67108864,"payloadBytes":262144,"publishedEvents":100,"resultBytes":262144,"#,
                r#""stateBytes":268435456,"stateKeys":1000000,"stateOperations":256,"stateValueBytes":262144,"#,
                r#""stderrBytes":8192,"wallMs":5000},"loadedAt":"1970-01-01T00:00:00.002Z","maxWaiting":3,"name":"p","#,
                r#""needsApproval":{"digest":"h","imports":["i"],"takes":[{"plugin":"q","types":"a.*"}]},"#,
                r#""removedAt":"1970-01-01T00:00:00.001Z","reuse":{"idleMs":10000,"maxEvents":100},"#,
                r#""rolledBackFrom":"r","sizeBytes":4,"state":"failed-kept-last-good","types":["a"],"version":"v"}"#,
            )
        );
    }
}
