//! Connects the API to the plugin registry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{
    ApprovalView, PluginAdmin, PluginChangeError, PluginStatusView, PluginView, RemovedPlugin, ReuseView,
    TakenTypesView,
};
use crate::broker::{ConsumerDirectory, Lane};
use crate::event::EventType;
use crate::plugin::{
    ApproveError, NeedsApproval, PluginRegistry, PluginReport, PluginStatus, RemoveError, ReusePolicy, RollbackError,
};
use crate::worker;

/// After this time, plugins that are still loading no longer keep the host from being ready. One that compiles for minutes
/// must not hold up the others.
const READINESS_PATIENCE: Duration = Duration::from_secs(30);
/// The most plugins that a message names.
const MAX_NAMED: usize = 5;

/// The plugin registry as the API sees it.
pub(super) struct RegistryControl {
    pub(super) registry: Arc<PluginRegistry>,
    pub(super) consumers: Arc<dyn ConsumerDirectory>,
    /// When the loading of the plugins began.
    pub(super) started: Instant,
}

#[async_trait::async_trait]
impl PluginAdmin for RegistryControl {
    fn lane(&self, event_type: &EventType) -> Lane {
        worker::lane_of(&self.registry, &*self.consumers, event_type)
    }

    fn unready_reason(&self) -> Option<String> {
        if !self.registry.is_starting() || self.started.elapsed() >= READINESS_PATIENCE {
            return None;
        }
        let awaited = self.registry.awaited();
        let more = awaited.len().saturating_sub(MAX_NAMED);
        let named = awaited.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
        Some(match (named.as_str(), more) {
            ("", _) => "plugins are being loaded; events are accepted and wait".into(),
            (_, 0) => format!("plugins are being loaded: {named}; events for them are accepted and wait"),
            _ => format!("plugins are being loaded: {named} and {more} more; events for them are accepted and wait"),
        })
    }

    fn plugins(&self) -> Vec<PluginView> {
        self.registry.statuses().into_iter().map(PluginView::from).collect()
    }

    fn plugin(&self, name: &str) -> Option<PluginView> {
        self.registry.status(name).map(PluginView::from)
    }

    fn overlooked(&self) -> Vec<String> {
        self.registry.unmatched()
    }

    async fn rollback(&self, name: &str) -> Result<PluginView, PluginChangeError> {
        let changed = self.registry.rollback(name).await;
        changed.map(PluginView::from).map_err(|error| match error {
            RollbackError::Unknown(_) => PluginChangeError::Unknown(error.to_string()),
            _ => PluginChangeError::Refused(error.to_string()),
        })
    }

    async fn approve(&self, name: &str, digest: Option<&str>) -> Result<PluginView, PluginChangeError> {
        let changed = self.registry.approve(name, digest).await;
        changed.map(PluginView::from).map_err(|error| match error {
            ApproveError::Unknown(_) => PluginChangeError::Unknown(error.to_string()),
            ApproveError::Unnamed { .. } => PluginChangeError::DigestMissing(error.to_string()),
            _ => PluginChangeError::Refused(error.to_string()),
        })
    }

    async fn remove(&self, name: &str) -> Result<RemovedPlugin, PluginChangeError> {
        let removal = self.registry.remove(name).await.map_err(|error| match error {
            RemoveError::Unknown(_) => PluginChangeError::Unknown(error.to_string()),
            RemoveError::File { .. } => PluginChangeError::Refused(error.to_string()),
        })?;
        Ok(RemovedPlugin {
            plugin: removal.status.into(),
            file: removal.file.to_string_lossy().into_owned(),
            settings: removal.settings.map(|path| path.to_string_lossy().into_owned()),
        })
    }
}

impl From<PluginReport> for PluginView {
    fn from(report: PluginReport) -> Self {
        Self {
            name: report.name,
            status: report.state.into(),
            error: report.error,
            rolled_back_from: report.rolled_back_from,
            needs_approval: report.needs_approval.map(ApprovalView::from),
            removed_at: report.removed_at,
            digest: report.digest,
            version: report.version,
            description: report.description,
            dialect: report.dialect,
            types: report.types,
            limits: report.limits,
            concurrency: report.concurrency,
            max_waiting: report.max_waiting,
            reuse: report.reuse.map(ReuseView::from),
            size_bytes: report.size_bytes,
            denied: report.denied,
            loaded_at: report.loaded_at,
        }
    }
}

impl From<PluginStatus> for PluginStatusView {
    fn from(status: PluginStatus) -> Self {
        match status {
            PluginStatus::Active => Self::Active,
            PluginStatus::Compiling => Self::Compiling,
            PluginStatus::Failed => Self::Failed,
            PluginStatus::FailedKeptLastGood => Self::FailedKeptLastGood,
            PluginStatus::NeedsApproval => Self::NeedsApproval,
            PluginStatus::Removed => Self::Removed,
        }
    }
}

impl From<NeedsApproval> for ApprovalView {
    fn from(held: NeedsApproval) -> Self {
        let NeedsApproval { digest, imports, takes } = held;
        let takes = takes.into_iter().map(|taken| TakenTypesView { types: taken.types, plugin: taken.plugin });
        Self { digest, imports, takes: takes.collect() }
    }
}

impl From<ReusePolicy> for ReuseView {
    fn from(reuse: ReusePolicy) -> Self {
        Self { max_events: reuse.max_events.get(), idle_ms: reuse.idle_ms }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::event::{AttemptLimits, Timestamp};
    use crate::plugin::TakenTypes;

    #[test]
    fn a_plugin_is_shown_with_every_member_of_its_report() {
        let report = PluginReport {
            name: "p".into(),
            state: PluginStatus::FailedKeptLastGood,
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
            reuse: Some(ReusePolicy::default()),
            size_bytes: Some(4),
            denied: BTreeMap::from([("http", 1)]),
            loaded_at: Some(Timestamp::from_unix_ms(2)),
        };
        let view = serde_json::to_value(PluginView::from(report)).unwrap();
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
