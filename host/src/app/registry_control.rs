//! Connects the API to the plugin registry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{PluginAdmin, PluginChangeError, RemovedPlugin};
use crate::broker::{ConsumerDirectory, Lane};
use crate::event::EventType;
use crate::plugin::{ChangeRefusal, PluginRegistry};
use crate::plugin_report::PluginReport;
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

    fn plugins(&self) -> Vec<PluginReport> {
        self.registry.statuses()
    }

    fn plugin(&self, name: &str) -> Option<PluginReport> {
        self.registry.status(name)
    }

    fn overlooked(&self) -> Vec<String> {
        self.registry.unmatched()
    }

    async fn rollback(&self, name: &str) -> Result<PluginReport, PluginChangeError> {
        self.registry.rollback(name).await.map_err(to_change_error)
    }

    async fn approve(&self, name: &str, digest: Option<&str>) -> Result<PluginReport, PluginChangeError> {
        self.registry.approve(name, digest).await.map_err(to_change_error)
    }

    async fn remove(&self, name: &str) -> Result<RemovedPlugin, PluginChangeError> {
        let removal = self.registry.remove(name).await.map_err(to_change_error)?;
        Ok(RemovedPlugin {
            plugin: removal.status,
            file: removal.file.map(|path| path.to_string_lossy().into_owned()),
            settings: removal.settings.map(|path| path.to_string_lossy().into_owned()),
        })
    }
}

fn to_change_error(refusal: ChangeRefusal) -> PluginChangeError {
    let words = refusal.to_string();
    match refusal {
        ChangeRefusal::Unknown(_) => PluginChangeError::Unknown(words),
        ChangeRefusal::Unnamed { .. } => PluginChangeError::DigestMissing(words),
        _ => PluginChangeError::Refused(words),
    }
}
