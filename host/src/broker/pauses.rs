//! The pauses of plugins: stored beside their events, so that they survive every restart and hold for every host.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{AuditNote, Error, Lane};
use crate::event::Timestamp;

/// The most pauses that a store holds (G12).
pub const MAX_STORED_PAUSES: usize = 1_000;

/// Keeps the pauses of a deployment. The store's clock decides when one ends.
#[async_trait]
pub trait PauseStore: Send + Sync + 'static {
    /// The pauses that have not ended, ordered by plugin.
    ///
    /// # Errors
    /// The store cannot be read; the caller goes on with what it knows.
    async fn read_pauses(&self) -> Result<Vec<PluginPause>, Error>;

    /// Pauses a plugin and notes that in the audit, in one durable step. A pause that it had is replaced.
    ///
    /// # Errors
    /// Those of [`super::EventLog::append`]. The call may be repeated.
    async fn write_pause(&self, pause: PluginPause, audit: Option<&AuditNote>) -> Result<PauseOutcome, Error>;

    /// Ends the pause of a plugin and notes that, in one durable step. `false` if it had none; then nothing is noted.
    ///
    /// # Errors
    /// Those of [`Self::write_pause`].
    async fn end_pause(&self, plugin: &Lane, audit: Option<&AuditNote>) -> Result<bool, Error>;
}

/// A plugin that gets no events until a person resumes it, or until a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginPause {
    /// The plugin, by the name of its lane.
    pub plugin: Lane,
    /// Who paused it, and why.
    #[serde(flatten)]
    pub note: PauseNote,
}

/// Who paused a plugin, when, why and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseNote {
    /// Since when, by the clock of the host that was asked.
    pub since: Timestamp,
    /// The name of the key, such as `key:ops`.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it resumes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What a request to pause came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseOutcome {
    /// The plugin is paused.
    Done,
    /// The store holds [`MAX_STORED_PAUSES`] pauses. Nothing was written.
    Full,
}

/// Collects pauses as a store holds them. A note that cannot be read comes from a newer version, and still pauses.
pub(super) fn collect_pauses(rows: impl IntoIterator<Item = (String, String)>) -> Vec<PluginPause> {
    let unreadable = || PauseNote {
        since: Timestamp::from_unix_ms(0),
        by: "unknown".into(),
        reason: Some("a host of a newer version paused it".into()),
        until: None,
    };
    let read = |(plugin, note): (String, String)| {
        let note = serde_json::from_str(&note).unwrap_or_else(|_| unreadable());
        Some(PluginPause { plugin: plugin.parse().ok()?, note })
    };
    let mut pauses: Vec<_> = rows.into_iter().filter_map(read).collect();
    pauses.sort_by(|one, other| one.plugin.cmp(&other.plugin));
    pauses
}
