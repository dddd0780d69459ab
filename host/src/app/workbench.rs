//! A plugin's file without a server: what it is or why it is none, and what comes of events that it is given.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use super::{Error, plugin_options};
use crate::api::{DataView, show};
use crate::clock;
use crate::config::Config;
use crate::event::{
    AttemptEffects, AttemptOutcome, Event, EventDraft, EventFault, EventId, EventLimits, LogLine, PublishedEvent,
    RejectedRequest, Settlement, StateWrite, decide_settlement,
};
use crate::plugin::{self, AttemptInput, LoadError, MemoryState, Plugin, PluginSettings};

/// A sandbox for files that are looked at one after the other.
pub struct PluginInspector {
    sandbox: plugin::InspectionSandbox,
    limits: EventLimits,
    max_line_bytes: usize,
}

/// Why a file is not a plugin, in the words that a server has for it.
#[derive(Debug, Serialize)]
pub struct InspectError {
    /// Everything in one text.
    pub error: String,
    /// Each misfit by itself, where imports and exports do not fit; else the one thing that is wrong.
    pub misfits: Vec<String>,
    /// The file or its settings cannot be read, which says nothing of the component.
    #[serde(skip)]
    pub is_usage: bool,
}

/// What a file that is a plugin is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginFacts {
    /// The name that it would have.
    pub name: String,
    /// The version that it says it has.
    pub version: Option<String>,
    /// What it says it does.
    pub description: Option<String>,
    /// The interface by which it would be called.
    pub dialect: String,
    /// The types that it would handle.
    pub types: Vec<String>,
    /// The size of the file.
    pub size_bytes: u64,
    /// The SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// The memory that each attempt starts with.
    pub initial_memory_bytes: u64,
    /// The memory that an attempt may have.
    pub memory_limit_bytes: u64,
}

/// A plugin that is given events by hand.
pub struct PluginTrial<'a> {
    plugin: Arc<Plugin>,
    /// What the events before have written.
    state: Arc<MemoryState>,
    limits: &'a EventLimits,
}

impl PluginInspector {
    /// Sets the sandbox up, with the limits of the configuration.
    ///
    /// # Errors
    /// A setting is wrong, or the sandbox cannot be set up.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let sandbox =
            plugin::InspectionSandbox::open(plugin_options(config)?).map_err(|error| Error::Failed(error.into()))?;
        let limits = EventLimits { max_payload_bytes: config.max_payload_bytes, ..EventLimits::default() };
        Ok(Self { sandbox, limits, max_line_bytes: config.server.max_body_bytes })
    }

    /// Reads a file of settings, of which [`PluginSettings::summary`] tells what they would give.
    ///
    /// # Errors
    /// It cannot be read, or what is wrong with it.
    pub async fn read_settings(&self, file: &Path) -> Result<PluginSettings, InspectError> {
        Ok(self.sandbox.read_settings(file).await?)
    }

    /// Takes a file through the steps of a server, with these settings; those in a file beside it are not read.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub async fn load(&self, path: &Path, settings: Option<&PluginSettings>) -> Result<PluginTrial<'_>, InspectError> {
        self.load_with(path, settings, None).await
    }

    /// As [`Self::load`], with another table `config`, if there is one.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub async fn load_with(
        &self,
        path: &Path,
        settings: Option<&PluginSettings>,
        config: Option<BTreeMap<String, String>>,
    ) -> Result<PluginTrial<'_>, InspectError> {
        let plugin = self.sandbox.load(path, settings, config).await?;
        Ok(PluginTrial { plugin: Arc::new(plugin), state: Arc::default(), limits: &self.limits })
    }

    /// The most bytes of a request, and so of a line that holds an event.
    pub fn max_line_bytes(&self) -> usize {
        self.max_line_bytes
    }
}

impl From<LoadError> for InspectError {
    fn from(error: LoadError) -> Self {
        let text = error.to_string();
        let is_usage = matches!(error, LoadError::Read(_) | LoadError::Settings(_) | LoadError::Secret(_));
        let misfits = match error {
            LoadError::Misfits(misfits) => misfits,
            _ => vec![text.clone()],
        };
        Self { error: text, misfits, is_usage }
    }
}

impl PluginTrial<'_> {
    /// The same plugin, without state.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self { plugin: self.plugin.clone(), state: Arc::default(), limits: self.limits }
    }

    /// What the plugin is.
    pub fn facts(&self) -> PluginFacts {
        let plugin = &self.plugin;
        PluginFacts {
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

    /// Hands the plugin one event, written as `POST /events` takes it, whatever its type. Gives one line of JSON: what
    /// the attempt came to and what would be committed.
    ///
    /// # Errors
    /// Everything that is wrong with the event, each with the place.
    pub async fn handle(&self, event: Bytes, attempt: u32) -> Result<String, Vec<EventFault>> {
        let faults = |rejected| match rejected {
            RejectedRequest::Malformed(faults)
            | RejectedRequest::Invalid(faults)
            | RejectedRequest::TooLarge(faults) => faults,
        };
        let draft = EventDraft::parse(&event, self.limits).map_err(faults)?;
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
            decide_settlement(&completed.outcome, attempt.saturating_sub(1), self.plugin.policies(), fastrand::f64());
        let (success, failure) = match completed.outcome {
            AttemptOutcome::Ok(success) => (success, None),
            AttemptOutcome::Failed(failure) => (AttemptEffects::default(), Some(failure)),
        };
        let (result, result_base64) = show(success.result.as_ref(), None);
        let writes = success.state.as_ref().map(|step| &step.writes[..]).unwrap_or_default();
        if let Some(step) = &success.state {
            self.state.commit(step);
        }
        let line = TrialAttempt {
            event_id: id,
            r#type: event_type.as_str(),
            attempt,
            outcome: word(&settlement),
            class: failure.as_ref().map(|failure| failure.class.as_str()),
            error: failure.as_ref().map(|failure| failure.message.as_str()),
            backtrace: failure.as_ref().and_then(|failure| failure.backtrace.as_deref()),
            retry_in_ms: match settlement {
                Settlement::Retry { delay_ms, .. } => Some(delay_ms),
                _ => None,
            },
            result,
            result_base64,
            published: success.published.iter().map(TrialEvent::of).collect(),
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

fn word(settlement: &Settlement) -> &'static str {
    match settlement {
        Settlement::Processed => "processed",
        Settlement::Retry { .. } => "retry",
        Settlement::Deferred { .. } => "deferred",
        Settlement::Failed { .. } | Settlement::Returned => "failed",
    }
}

/// One attempt; the words are those of `GET /events/{id}`.
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
    published: Vec<TrialEvent<'a>>,
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

/// An event that would exist from the commit on.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TrialEvent<'a> {
    id: EventId,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<DataView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
}

impl<'a> TrialEvent<'a> {
    fn of(published: &'a PublishedEvent) -> Self {
        let event: &Event = &published.event;
        let (payload, payload_base64) = show(event.data.as_ref(), event.data_content_type.as_deref());
        Self {
            id: event.id,
            r#type: event.event_type.as_str(),
            subject: event.subject.as_deref(),
            content_type: event.data_content_type.as_deref(),
            payload,
            payload_base64,
            delay_ms: Some(published.delay_ms).filter(|delay_ms| *delay_ms > 0),
        }
    }
}

/// What would be written to the plugin's state: exactly one of the last four is there.
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

fn is_zero(number: &u32) -> bool {
    *number == 0
}
