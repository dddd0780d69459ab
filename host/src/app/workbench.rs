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
use crate::api::{Shown, show};
use crate::clock;
use crate::config::Config;
use crate::event::{
    Draft, Event, EventId, Fault, Limits, LogLine, Outcome, Published, Rejected, Settlement, StateWrite, Success,
    decide,
};
use crate::plugin::{self, Attempt, LoadError, MemoryState, Plugin, Settings as PluginSettings};

/// A sandbox for files that are looked at one after the other.
pub struct Workbench {
    sandbox: plugin::Workbench,
    limits: Limits,
    max_line_bytes: usize,
}

/// Why a file is not a plugin, in the words that a server has for it.
#[derive(Debug, Serialize)]
pub struct NoPlugin {
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
pub struct Facts {
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
pub struct OnBench<'a> {
    plugin: Arc<Plugin>,
    /// What the events before have written.
    state: Arc<MemoryState>,
    limits: &'a Limits,
}

impl Workbench {
    /// Sets the sandbox up, with the limits of the configuration.
    ///
    /// # Errors
    /// A setting is wrong, or the sandbox cannot be set up.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let sandbox = plugin::Workbench::open(plugin_options(config)?).map_err(|error| Error::Failed(error.into()))?;
        let limits = Limits { max_payload_bytes: config.max_payload_bytes, ..Limits::default() };
        Ok(Self { sandbox, limits, max_line_bytes: config.server.max_body_bytes })
    }

    /// Reads a file of settings, of which [`PluginSettings::summary`] tells what they would give.
    ///
    /// # Errors
    /// It cannot be read, or what is wrong with it.
    pub async fn read_settings(&self, file: &Path) -> Result<PluginSettings, NoPlugin> {
        Ok(self.sandbox.read_settings(file).await?)
    }

    /// Takes a file through the steps of a server, with these settings; those in a file beside it are not read.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub async fn load(&self, path: &Path, settings: Option<&PluginSettings>) -> Result<OnBench<'_>, NoPlugin> {
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
    ) -> Result<OnBench<'_>, NoPlugin> {
        let plugin = self.sandbox.load(path, settings, config).await?;
        Ok(OnBench { plugin: Arc::new(plugin), state: Arc::default(), limits: &self.limits })
    }

    /// The most bytes of a request, and so of a line that holds an event.
    pub fn max_line_bytes(&self) -> usize {
        self.max_line_bytes
    }
}

impl From<LoadError> for NoPlugin {
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

impl OnBench<'_> {
    /// The same plugin, without state.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self { plugin: self.plugin.clone(), state: Arc::default(), limits: self.limits }
    }

    /// What the plugin is.
    pub fn facts(&self) -> Facts {
        let plugin = &self.plugin;
        Facts {
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
    pub async fn handle(&self, event: Bytes, attempt: u32) -> Result<String, Vec<Fault>> {
        let faults = |rejected| match rejected {
            Rejected::Malformed(faults) | Rejected::Invalid(faults) | Rejected::TooLarge(faults) => faults,
        };
        let draft = Draft::parse(&event, self.limits).map_err(faults)?;
        if draft.is_batch() {
            return Err(vec![Fault::new("", "an array; a line is one event")]);
        }
        let events = draft.validate(self.limits, clock::now(), None).map_err(faults)?;
        let Some(new) = events.into_iter().next() else { return Err(vec![Fault::new("", "no event")]) };
        let (id, event_type) = (new.event.id, new.event.event_type.clone());
        let started = Instant::now();
        let completed = self.plugin.handle(Attempt { event: new.event.into(), attempt }, self.state.clone()).await;
        let duration_ms = started.elapsed().as_micros() as f64 / 1_000.0;
        let settlement = decide(&completed.outcome, attempt.saturating_sub(1), self.plugin.policies(), fastrand::f64());
        let (success, failure) = match completed.outcome {
            Outcome::Ok(success) => (success, None),
            Outcome::Failed(failure) => (Success::default(), Some(failure)),
        };
        let (result, result_base64) = show(success.result.as_ref(), None);
        let writes = success.state.as_ref().map(|step| &step.writes[..]).unwrap_or_default();
        if let Some(step) = &success.state {
            self.state.commit(step);
        }
        let line = Line {
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
            published: success.published.iter().map(Child::of).collect(),
            state: writes.iter().map(Change::of).collect(),
            log: &completed.log,
            log_lines_dropped: completed.log_lines_dropped,
            stderr: completed.stderr.as_deref(),
            duration_ms,
            plugin: self.plugin.name(),
            digest: self.plugin.digest(),
        };
        serde_json::to_string(&line).map_err(|error| vec![Fault::new("", error.to_string())])
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
struct Line<'a> {
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
    result: Option<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
    published: Vec<Child<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: Vec<Change<'a>>,
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
struct Child<'a> {
    id: EventId,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
}

impl<'a> Child<'a> {
    fn of(published: &'a Published) -> Self {
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
struct Change<'a> {
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

impl<'a> Change<'a> {
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
