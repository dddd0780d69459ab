//! Lets a plugin handle events without a server, and shows what would be committed.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use crate::clock;
use crate::event::{
    AttemptEffects, AttemptOutcome, DataView, EventBody, EventFault, EventId, EventLimits, LogLine, ParsedBody,
    PublishedEvent, RejectedRequest, Settlement, StateWrite, data_view, decide_settlement, is_zero,
};
use crate::plugin::{AttemptInput, MemoryState, Plugin};

/// What `plugin check` shows of a plugin's file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InspectedFile {
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

impl InspectedFile {
    fn of(plugin: &Plugin) -> Self {
        Self {
            name: plugin.name().to_owned(),
            version: plugin.version.clone(),
            description: plugin.description.clone(),
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

/// A plugin with its state in memory, which handles events on request.
pub struct PluginTrial<'a> {
    plugin: Arc<Plugin>,
    /// The state that earlier events have written.
    state: Arc<MemoryState>,
    limits: &'a EventLimits,
}

impl<'a> PluginTrial<'a> {
    pub(super) fn new(plugin: Plugin, limits: &'a EventLimits) -> Self {
        Self { plugin: Arc::new(plugin), state: Arc::default(), limits }
    }

    /// The same plugin, with empty state.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self { plugin: self.plugin.clone(), state: Arc::default(), limits: self.limits }
    }

    /// Describes the plugin.
    pub fn facts(&self) -> InspectedFile {
        InspectedFile::of(&self.plugin)
    }

    /// Lets the plugin handle one event of any type, written as for `POST /events`. Returns a line of JSON: the outcome of the
    /// attempt and what would be committed.
    ///
    /// # Errors
    /// Every fault of the event, with its place.
    pub async fn handle(&self, event: Bytes, attempt: u32) -> Result<String, Vec<EventFault>> {
        let faults = |rejected| match rejected {
            RejectedRequest::Malformed(faults)
            | RejectedRequest::Invalid(faults)
            | RejectedRequest::TooLarge(faults) => faults,
        };
        let draft = ParsedBody::parse(&event, self.limits).map_err(faults)?;
        if draft.is_batch() {
            return Err(vec![EventFault::new("", "an array; a line is one event")]);
        }
        let events = draft.validate(self.limits, clock::now(), None).map_err(faults)?;
        let Some(new) = events.into_iter().next() else { return Err(vec![EventFault::new("", "no event")]) };
        let (id, event_type) = (new.event.id, new.event.event_type.clone());
        let started = Instant::now();
        let completed = self.plugin.handle(AttemptInput { event: new.event.into(), attempt }, self.state.clone()).await;
        let duration_ms = started.elapsed().as_micros() as f64 / 1_000.0;
        let settlement =
            decide_settlement(&completed.outcome, attempt.saturating_sub(1), &self.plugin.policies, fastrand::f64());
        let (success, failure) = match completed.outcome {
            AttemptOutcome::Ok(success) => (success, None),
            AttemptOutcome::Failed(failure) => (AttemptEffects::default(), Some(failure)),
        };
        let (result, result_base64) = data_view(success.result.as_ref(), None);
        let writes = success.state.as_ref().map(|step| &step.writes[..]).unwrap_or_default();
        if let Some(step) = &success.state {
            self.state.commit(step);
        }
        let line = TrialAttempt {
            event_id: id,
            r#type: event_type.as_str(),
            attempt,
            outcome: outcome_word(&settlement),
            class: failure.as_ref().map(|failure| failure.class.as_str()),
            error: failure.as_ref().map(|failure| failure.message.as_str()),
            backtrace: failure.as_ref().and_then(|failure| failure.backtrace.as_deref()),
            retry_in_ms: match settlement {
                Settlement::Retry { delay_ms, .. } => Some(delay_ms),
                _ => None,
            },
            result,
            result_base64,
            published: success.published.iter().map(published_body).collect(),
            state: writes.iter().map(TrialStateChange::of).collect(),
            log: &completed.log,
            log_lines_dropped: completed.log_lines_dropped,
            stderr: completed.stderr.as_deref(),
            duration_ms,
            plugin: self.plugin.name(),
            digest: self.plugin.digest(),
        };
        serde_json::to_string(&line).map_err(|error| vec![EventFault::new("", error.to_string())])
    }
}

fn outcome_word(settlement: &Settlement) -> &'static str {
    match settlement {
        Settlement::Processed => "processed",
        Settlement::Retry { .. } => "retry",
        Settlement::Deferred { .. } => "deferred",
        Settlement::Failed { .. } | Settlement::Returned => "failed",
    }
}

/// One attempt. The members are those of `GET /events/{id}`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TrialAttempt<'a> {
    event_id: EventId,
    r#type: &'a str,
    attempt: u32,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backtrace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_in_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<DataView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
    published: Vec<EventBody<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: Vec<TrialStateChange<'a>>,
    log: &'a [LogLine],
    #[serde(skip_serializing_if = "is_zero")]
    log_lines_dropped: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<&'a str>,
    duration_ms: f64,
    plugin: &'a str,
    digest: &'a str,
}

/// An event that the commit would publish.
fn published_body(published: &PublishedEvent) -> EventBody<'_> {
    let event = &published.event;
    let (payload, payload_base64) = data_view(event.data.as_ref(), event.data_content_type.as_deref());
    EventBody {
        r#type: event.event_type.as_str(),
        id: Some(event.id.to_string()),
        subject: event.subject.as_deref(),
        content_type: event.data_content_type.as_deref(),
        delay_ms: Some(published.delay_ms).filter(|delay_ms| *delay_ms > 0),
        payload,
        payload_base64,
        ..EventBody::default()
    }
}

/// A change that the commit would make to the plugin's state. Exactly one of the last four members is present.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrialStateChange<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    add: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete: Option<bool>,
}

impl<'a> TrialStateChange<'a> {
    fn of((key, write): &'a (String, StateWrite)) -> Self {
        let change = Self { key, ..Self::default() };
        match write {
            StateWrite::Delete => Self { delete: Some(true), ..change },
            StateWrite::Add(delta) => Self { add: Some(*delta), ..change },
            StateWrite::Set { value, ttl_ms } => match std::str::from_utf8(value) {
                Ok(text) => Self { set: Some(text), ttl_ms: *ttl_ms, ..change },
                Err(_) => Self { set_base64: Some(STANDARD.encode(value)), ttl_ms: *ttl_ms, ..change },
            },
        }
    }
}
