//! The story of one event: what was accepted, every attempt at it, and how it ended.
//!
//! A record travels with its event wherever the broker moves it, so that a transition is one write and the whole story
//! can be asked for in any state.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Event, EventData, EventId, FailureClass, Settlement, Timestamp, is_zero};

/// The most attempts of which a record keeps the details: the first and the latest ones. An event may be replayed
/// without end, and its record must not grow without end.
const MAX_KEPT_ATTEMPTS: usize = 32;

/// An event with its story so far.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// What was accepted. Shared, since it goes from hand to hand and never changes.
    pub event: Arc<Event>,
    /// Attempts begun since the event was accepted or last replayed, as far as the store knows.
    pub attempts_made: u32,
    /// Those of them that failed and count against the policy.
    pub failures: u32,
    /// How often the event was replayed.
    pub replays: u32,
    /// How often in a row an attempt was put off since a limit of the deployment was in its way.
    pub deferrals: u32,
    /// The attempts that ended, oldest first; the middle of a very long story is left out.
    pub attempts: Vec<AttemptRecord>,
    /// How the event ended, once it has.
    pub end: Option<EventEnd>,
}

/// One attempt that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// 1 for the first since the event was accepted or last replayed.
    pub attempt: u32,
    /// After which replay; 0 before the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replay: u32,
    /// When the handler was called, by the clock of the host that called it.
    pub started_at: Timestamp,
    /// How long the handler ran, in milliseconds with microseconds as decimals.
    pub duration_ms: f64,
    /// `None` when the handler returned ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    /// The pause before the next attempt, when there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// The consumer that made the attempt.
    pub consumer: Arc<str>,
    /// The plugin that handled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Arc<str>>,
    /// The SHA-256 of the component that ran, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Arc<str>>,
    /// What the guest wrote to its standard error, cut to the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// What the guest logged, cut to the limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
    /// Log lines that were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_lines_dropped: u32,
}

/// One line that a guest logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// How serious.
    pub level: LogLevel,
    /// What it says.
    pub message: String,
    /// Names and values beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, String)>,
}

impl LogLine {
    /// The most fields of a line.
    pub const MAX_FIELDS: usize = 32;
    /// What a field costs beside its text wherever lines are measured, so that empty ones are not free.
    pub const FIELD_BYTES: usize = size_of::<(String, String)>();

    /// How much it takes: its text and its fields.
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
    /// When, by the clock of the host that settled it.
    pub at: Timestamp,
    /// `None` when it was processed.
    pub failure: Option<(FailureClass, String)>,
    /// What the handler returned to be kept.
    pub result: Option<EventData>,
    /// The events that its handler published.
    pub children: Vec<EventId>,
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    /// Accepted with a due time that has not come.
    Scheduled,
    /// Waits for a consumer.
    Queued,
    /// A consumer holds its lease.
    Running,
    /// Failed and waits for its next attempt.
    Retrying,
    /// Ended well.
    Processed,
    /// Ended badly; can be replayed.
    Failed,
    /// Ended by an operator.
    Discarded,
}

impl EventState {
    /// The state as it is written everywhere.
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
    /// The record of an event that was just accepted.
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

    /// The record after an attempt ended so. `result` and `children` are kept when the event was processed.
    pub fn after(
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
            Settlement::Processed => self.end = Some(EventEnd { at, failure: None, result, children }),
            Settlement::Retry { delay_ms, .. } => {
                self.failures = self.failures.saturating_add(1);
                attempt.retry_in_ms = Some(*delay_ms);
            }
            Settlement::Failed { class, reason } => {
                self.failures = self.failures.saturating_add(1);
                let failure = Some((*class, reason.clone()));
                self.end = Some(EventEnd { at, failure, result: None, children: Vec::new() });
            }
            Settlement::Returned | Settlement::Deferred { .. } => {}
        }
        if self.attempts.len() >= MAX_KEPT_ATTEMPTS {
            self.attempts.remove(1);
        }
        self.attempts.push(attempt);
        self
    }

    /// The state of the event while it waits for a due time: it retries if an attempt failed since it was accepted or last
    /// replayed, else it is scheduled.
    pub fn state_until_due(&self) -> EventState {
        if self.failures == 0 { EventState::Scheduled } else { EventState::Retrying }
    }

    /// The record of a delivery that is handed back, the last of so many. Those before it ended with their consumer, and
    /// stay known as attempts of which nothing came.
    pub fn handed_back(mut self, deliveries: u32) -> Self {
        self.attempts_made = self.attempts_made.saturating_add(deliveries.saturating_sub(1));
        self
    }

    /// How many attempts nothing came of since the last one that ended.
    pub fn attempts_lost(&self) -> u32 {
        let last = self.attempts.last().filter(|last| last.replay == self.replays);
        self.attempts_made.saturating_sub(last.map_or(0, |last| last.attempt))
    }

    /// About how much memory the record takes: the payload, the result and what the attempts left.
    pub fn size_bytes(&self) -> usize {
        let result = self.end.as_ref().and_then(|end| end.result.as_ref());
        let data = [self.event.data.as_ref(), result].into_iter().flatten().map(|data| data.bytes.len()).sum::<usize>();
        data + self.attempts.iter().map(AttemptRecord::size_bytes).sum::<usize>()
    }

    /// The record of the event put back to work: as new, but for its story.
    pub fn replayed(mut self) -> Self {
        self.attempts_made = 0;
        self.failures = 0;
        self.deferrals = 0;
        self.replays = self.replays.saturating_add(1);
        self.end = None;
        self
    }
}
