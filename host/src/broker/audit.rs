//! The audit: who changed what. It is stored beside the events, and a change that the store makes is noted in the same step.

use std::net::IpAddr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::event::Timestamp;

/// The most entries that one page examines, however few of them match.
pub(super) const MAX_EXAMINED_ENTRIES: usize = 2_500;
/// The most entries of a page.
pub(super) const MAX_ENTRIES_PER_PAGE: usize = 1_000;

/// Keeps the audit of a deployment. The store deletes the oldest entries past [`super::RetentionLimits::audit_ms`] and beyond
/// [`super::RetentionLimits::audit_max`].
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// Lists entries, newest first. A page may hold fewer than asked for, or none, although more follow.
    ///
    /// # Errors
    /// [`Error::BadCursor`]; [`Error::Busy`] if too many lists are being read.
    async fn list_audit(&self, query: AuditQuery) -> Result<AuditPage, Error>;

    /// Notes a change that the store did not make, in one durable step.
    ///
    /// # Errors
    /// Those of [`super::EventLog::append`]. A repeated call may note the change twice.
    async fn write_audit(&self, note: &AuditNote) -> Result<(), Error>;
}

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditAction {
    /// An event that was due later was made due.
    RunEvent,
    /// A waiting event was ended.
    CancelEvent,
    /// A failed event was put back to work.
    ReplayEvent,
    /// A failed event was ended for good.
    DiscardEvent,
    /// A plugin was paused.
    PausePlugin,
    /// The pause of a plugin was ended.
    ResumePlugin,
    /// An earlier version of a plugin was brought back.
    RollBackPlugin,
    /// A held build of a plugin was allowed to serve.
    ApprovePlugin,
    /// The file of a plugin was removed.
    RemovePlugin,
    /// The state of a plugin was removed.
    RemoveState,
    /// A key was made.
    CreateKey,
    /// A key got another secret.
    RotateKey,
    /// A key was ended.
    RevokeKey,
    /// An export was read into the store.
    ImportStore,
}

impl AuditAction {
    /// Its name in entries: what was changed, a dot, and how.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RunEvent => "event.run-now",
            Self::CancelEvent => "event.cancel",
            Self::ReplayEvent => "event.replay",
            Self::DiscardEvent => "event.discard",
            Self::PausePlugin => "plugin.pause",
            Self::ResumePlugin => "plugin.resume",
            Self::RollBackPlugin => "plugin.rollback",
            Self::ApprovePlugin => "plugin.approve",
            Self::RemovePlugin => "plugin.remove",
            Self::RemoveState => "state.remove",
            Self::CreateKey => "key.create",
            Self::RotateKey => "key.rotate",
            Self::RevokeKey => "key.revoke",
            Self::ImportStore => "store.import",
        }
    }
}

/// A change as the host describes it. The store adds the time. No member may hold a secret or a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditNote {
    /// Who made it, such as `key:ops`.
    pub by: String,
    /// The id of the key. Two keys may have one name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The address of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// What was changed and how; a text, since a newer host may know more actions.
    pub action: String,
    /// The event, plugin or key that was changed.
    pub target: String,
    /// What else there is to say, such as the digest of a build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How many things were changed, if it was not one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it came to: `done`, or `interrupted` if only a part was changed.
    pub outcome: String,
}

impl AuditNote {
    /// A change that was made as a whole.
    pub fn new(action: AuditAction, by: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            by: by.into(),
            key: None,
            from: None,
            action: action.as_str().to_owned(),
            target: target.into(),
            detail: None,
            count: None,
            reason: None,
            outcome: "done".to_owned(),
        }
    }

    /// The note with the reason that was given.
    #[must_use]
    pub fn because(self, reason: Option<String>) -> Self {
        Self { reason, ..self }
    }

    /// The form in which stores keep it.
    pub(super) fn encode(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|error| Error::Misconfigured(error.to_string()))
    }
}

/// An entry of the audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// When the change was made, by the clock of the store.
    pub at: Timestamp,
    /// The change.
    #[serde(flatten)]
    pub note: AuditNote,
}

impl AuditEntry {
    /// Reads an entry as a store keeps it. `None` if it is damaged.
    pub(super) fn decode(at_ms: i64, note: &[u8]) -> Option<Self> {
        Some(Self { at: Timestamp::from_unix_ms(at_ms), note: serde_json::from_slice(note).ok()? })
    }
}

/// Which entries to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only this action, or all actions on one kind of thing: `key` stands for `key.create` and others.
    pub action: Option<String>,
    /// Only changes of this caller, or of the key with this id.
    pub by: Option<String>,
    /// Only changes of this event, plugin or key.
    pub target: Option<String>,
    /// Only changes that were made at this time or later.
    pub since: Option<Timestamp>,
    /// Only changes that were made before this time.
    pub until: Option<Timestamp>,
    /// The most entries of a page.
    pub limit: usize,
    /// [`AuditPage::next_cursor`] of the page before; `None` for the first page.
    pub cursor: Option<String>,
}

impl AuditQuery {
    /// Whether an entry is asked for.
    pub(crate) fn matches(&self, entry: &AuditEntry) -> bool {
        let AuditEntry { at, note } = entry;
        let is_of_kind = |wanted: &str| note.action.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'));
        self.action.as_ref().is_none_or(|wanted| *wanted == note.action || is_of_kind(wanted))
            && self.by.as_ref().is_none_or(|wanted| *wanted == note.by || Some(wanted) == note.key.as_ref())
            && self.target.as_ref().is_none_or(|wanted| *wanted == note.target)
            && self.since.is_none_or(|since| *at >= since)
            && self.until.is_none_or(|until| *at < until)
    }

    /// The most entries of the page.
    pub(super) fn page_limit(&self) -> usize {
        self.limit.clamp(1, MAX_ENTRIES_PER_PAGE)
    }
}

/// A page of the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The entries, newest first.
    pub entries: Vec<AuditEntry>,
    /// The cursor of the next page; `None` on the last one.
    pub next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(action: AuditAction) -> AuditEntry {
        let note = AuditNote { key: Some("4fZk2mQ9xA".into()), ..AuditNote::new(action, "key:ops", "work") };
        AuditEntry { at: Timestamp::from_unix_ms(10), note }
    }

    #[test]
    fn a_query_names_an_action_or_a_kind_of_thing() {
        let matches = |query: AuditQuery| query.matches(&entry(AuditAction::PausePlugin));
        let by = |by: &str| AuditQuery { by: Some(by.into()), ..AuditQuery::default() };
        let action = |action: &str| AuditQuery { action: Some(action.into()), ..AuditQuery::default() };
        assert!(matches(AuditQuery::default()));
        assert!(matches(action("plugin")) && matches(action("plugin.pause")));
        assert!(!matches(action("plug")) && !matches(action("plugin.")) && !matches(action("plugin.resume")));
        assert!(matches(by("key:ops")) && matches(by("4fZk2mQ9xA")) && !matches(by("ops")));
        let between = |since, until| AuditQuery {
            since: Some(Timestamp::from_unix_ms(since)),
            until: Some(Timestamp::from_unix_ms(until)),
            ..AuditQuery::default()
        };
        assert!(matches(between(10, 11)) && !matches(between(11, 12)) && !matches(between(9, 10)));
    }

    #[test]
    fn an_entry_of_a_newer_host_is_read() {
        let stored = br#"{"by":"x","action":"event.paint","target":"e","outcome":"half","color":"red"}"#;
        let read = AuditEntry::decode(7, stored).unwrap();
        assert_eq!((read.note.action.as_str(), read.note.outcome.as_str()), ("event.paint", "half"));
        assert_eq!(AuditEntry::decode(7, b"{}"), None);
        let note = entry(AuditAction::CreateKey).note;
        assert_eq!(AuditEntry::decode(10, note.encode().unwrap().as_bytes()), Some(entry(AuditAction::CreateKey)));
    }
}
