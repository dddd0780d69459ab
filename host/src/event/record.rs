//! The record of an event: what was accepted, every attempt, and how the event ended.
//!
//! The broker stores the record with the event wherever the event goes. So a transition is one write, and the whole
//! record is available in every state.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Event, EventData, EventId, FailureClass, Settlement, Timestamp, is_zero};

/// The most attempts that a record keeps: the first and the latest ones. An event may be replayed any number of times,
/// and its record must not grow with that.
const MAX_KEPT_ATTEMPTS: usize = 32;

/// An event with everything that has happened to it.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// The event. It is shared, since it never changes.
    pub event: Arc<Event>,
    /// The attempts that began since the event was accepted or last replayed, as far as the store knows.
    pub attempts_made: u32,
    /// The attempts among them that failed and count for the retry policy.
    pub failures: u32,
    /// How often the event was replayed.
    pub replays: u32,
    /// How many times in a row a limit of the deployment deferred an attempt.
    pub deferrals: u32,
    /// The attempts that ended, oldest first. Of very many, those in the middle are left out.
    pub attempts: Vec<AttemptRecord>,
    /// How the event ended; `None` until then.
    pub end: Option<EventEnd>,
}

/// One attempt that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// 1 for the first since the event was accepted or last replayed.
    pub attempt: u32,
    /// The number of replays before it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replay: u32,
    /// When the handler was called, by the clock of its host.
    pub started_at: Timestamp,
    /// How long the handler ran, in milliseconds, precise to the microsecond.
    pub duration_ms: f64,
    /// The class of the failure; `None` when the handler returned ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where in the guest it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    /// The pause before the next attempt, if one follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// The consumer that made the attempt.
    pub consumer: Arc<str>,
    /// The plugin that handled the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Arc<str>>,
    /// The SHA-256 of the component that ran, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Arc<str>>,
    /// The guest's standard error, cut to its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// The guest's log, cut to its limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
    /// How many log lines were dropped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_lines_dropped: u32,
}

/// One line that a guest logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The level.
    pub level: LogLevel,
    /// The message.
    pub message: String,
    /// Names and values that belong to the message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, String)>,
}

impl LogLine {
    /// The most fields of a line.
    pub const MAX_FIELDS: usize = 32;
    /// The size that a field counts for beside its text, so that empty fields are not free.
    pub const FIELD_BYTES: usize = size_of::<(String, String)>();

    /// The size of the line in memory: its message and its fields.
    pub fn size_bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| Self::FIELD_BYTES + name.len() + value.len());
        self.message.len() + fields.sum::<usize>()
    }
}

/// The levels of a guest's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the usual ones")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// How an event ended.
#[derive(Clone, Debug, PartialEq)]
pub struct EventEnd {
    /// When, by the clock of the host that settled the event.
    pub at: Timestamp,
    /// The class and the reason of the failure; `None` when the event was processed.
    pub failure: Option<(FailureClass, String)>,
    /// The result that the handler returned.
    pub result: Option<EventData>,
    /// The events that the handler published.
    pub children: Vec<EventId>,
    /// That an operator discarded the failed event, or cancelled it before it ended. Then it has no failure.
    pub discarded: Option<Discard>,
}

/// How an event was discarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    /// When, by the clock of the host that was asked to.
    pub at: Timestamp,
    /// Why, as the operator said.
    pub reason: String,
}

/// The state of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    /// Accepted, with a due time in the future.
    Scheduled,
    /// Waiting for a consumer.
    Queued,
    /// A consumer holds its lease and handles it.
    Running,
    /// An attempt failed, and the next one is due in the future.
    Retrying,
    /// Ended: the handler returned ok.
    Processed,
    /// Ended: no further attempt is made. The event can be replayed.
    Failed,
    /// Ended: an operator discarded the event.
    Discarded,
}

impl EventState {
    /// Whether nobody handles it and it has not ended.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Scheduled | Self::Queued | Self::Retrying)
    }

    /// The state as text, the same everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Processed => "processed",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
        }
    }
}

impl fmt::Display for EventState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AttemptRecord {
    fn size_bytes(&self) -> usize {
        let texts = [&self.error, &self.backtrace, &self.stderr].into_iter().flatten().map(String::len).sum::<usize>();
        texts + self.log.iter().map(LogLine::size_bytes).sum::<usize>()
    }
}

impl EventRecord {
    /// The record of an event that was accepted just now.
    pub fn new(event: impl Into<Arc<Event>>) -> Self {
        Self {
            event: event.into(),
            attempts_made: 0,
            failures: 0,
            replays: 0,
            deferrals: 0,
            attempts: Vec::new(),
            end: None,
        }
    }

    /// Adds an attempt that was settled at `at`. A processed event keeps `result` and `children`. Earlier attempts lose their
    /// output if all of them would take too much.
    pub fn with_attempt(
        mut self,
        mut attempt: AttemptRecord,
        settlement: &Settlement,
        at: Timestamp,
        result: Option<EventData>,
        children: Vec<EventId>,
    ) -> Self {
        match settlement {
            Settlement::Returned => return self,
            Settlement::Deferred { .. } => return Self { deferrals: self.deferrals.saturating_add(1), ..self },
            Settlement::Processed | Settlement::Retry { .. } | Settlement::Failed { .. } => self.deferrals = 0,
        }
        self.attempts_made = attempt.attempt;
        match settlement {
            Settlement::Processed => self.end = Some(EventEnd { at, failure: None, result, children, discarded: None }),
            Settlement::Retry { delay_ms, .. } => {
                self.failures = self.failures.saturating_add(1);
                attempt.retry_in_ms = Some(*delay_ms);
            }
            Settlement::Failed { class, reason } => {
                self.failures = self.failures.saturating_add(1);
                let failure = Some((*class, reason.clone()));
                self.end = Some(EventEnd { at, failure, result: None, children: Vec::new(), discarded: None });
            }
            Settlement::Returned | Settlement::Deferred { .. } => {}
        }
        if self.attempts.len() >= MAX_KEPT_ATTEMPTS {
            self.attempts.remove(1);
        }
        self.attempts.push(attempt);
        self.limit_attempts();
        self
    }

    /// The state of an event that waits for its due time: retrying if an attempt failed since it was accepted or last
    /// replayed, otherwise scheduled.
    pub fn state_until_due(&self) -> EventState {
        if self.failures == 0 { EventState::Scheduled } else { EventState::Retrying }
    }

    /// Counts the attempts of consumers that died. `deliveries` includes the current delivery, which is handed back and so
    /// does not count.
    pub fn with_lost_deliveries(mut self, deliveries: u32) -> Self {
        self.attempts_made = self.attempts_made.saturating_add(deliveries.saturating_sub(1));
        self
    }

    /// How many attempts since the last settled one ended without a settlement.
    pub fn lost_attempts(&self) -> u32 {
        let last = self.attempts.last().filter(|last| last.replay == self.replays);
        self.attempts_made.saturating_sub(last.map_or(0, |last| last.attempt))
    }

    /// About how much memory the record takes: the payload, the result and the attempts.
    pub fn size_bytes(&self) -> usize {
        let Self { event, attempts_made: _, failures: _, replays: _, deferrals: _, attempts, end } = self;
        let result = end.as_ref().and_then(|end| end.result.as_ref());
        let data = [event.data.as_ref(), result].into_iter().flatten().map(|data| data.bytes.len()).sum::<usize>();
        data + attempts.iter().map(AttemptRecord::size_bytes).sum::<usize>()
    }

    /// Resets the record for a replay. The attempts so far stay.
    pub fn replayed(self) -> Self {
        Self { replays: self.replays.saturating_add(1), attempts: self.attempts, ..Self::new(self.event) }
    }

    /// Ends the record of an event that waits, because a person cancelled it.
    pub fn cancelled(mut self, at: Timestamp, reason: &str) -> Self {
        let discarded = Some(Discard { at, reason: reason.to_owned() });
        self.end = Some(EventEnd { at, failure: None, result: None, children: Vec::new(), discarded });
        self
    }

    /// Notes in the record of a failed event that an operator discarded it.
    pub fn discarded(mut self, at: Timestamp, reason: &str) -> Self {
        if let Some(end) = &mut self.end {
            end.discarded = Some(Discard { at, reason: reason.to_owned() });
        }
        self
    }
}
