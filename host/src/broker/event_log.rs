//! The event log: accepts events and answers questions about them.

use async_trait::async_trait;

use super::{AuditNote, BrokerStats, Error, Lane, StoreHealth};
use crate::event::{DeliveryStart, EventId, EventRecord, EventState, EventType, FailureClass, Idempotency, Timestamp};

/// Accepts events and answers questions about them.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// The kind of store, as answers and logs write it: `Redis` or `embedded`.
    fn name(&self) -> &'static str;

    /// Whether the store works, and how durable it is. Never waits: a background task keeps the answer current.
    fn health(&self) -> StoreHealth;

    /// Appends all of these events or none. The answers are in the order of the events.
    ///
    /// # Errors
    /// - [`Error::Conflict`]: an idempotency key is known with another body. Nothing was appended.
    /// - [`Error::LaneFull`], [`Error::LaneHeavy`], [`Error::KeysFull`], [`Error::Full`]: a limit was reached. Nothing was
    ///   appended.
    /// - [`Error::Unavailable`] with `outcome_known` false: the events may be appended, now or later. Repeat the call with
    ///   the same idempotency keys.
    async fn append(&self, events: Vec<AppendRequest>) -> Result<Vec<AcceptedEvent>, Error>;

    /// Finds an event, whatever its state.
    async fn find_event(&self, id: EventId) -> Result<Option<FoundEvent>, Error>;

    /// Lists ended events, newest first. One call reads a bounded amount, so a page may hold fewer events than asked
    /// for.
    ///
    /// # Errors
    /// [`Error::BadCursor`]; [`Error::Busy`] if too many lists are being read.
    async fn list_ended(&self, query: EndedQuery) -> Result<EndedPage, Error>;

    /// Puts a failed event back into a lane. Its record keeps the attempts made so far.
    ///
    /// Like the changes below, it adds `audit` to the audit in the same step, if a person asked for it.
    async fn replay(&self, id: EventId, lane: &Lane, audit: Option<&AuditNote>) -> Result<FailedEventChange, Error>;

    /// Discards a failed event for good. Its record keeps `reason` and the time, and the store deletes it after
    /// [`RetentionLimits::discarded_ms`](super::RetentionLimits::discarded_ms) or when its history becomes too large.
    async fn discard(&self, id: EventId, reason: &str, audit: Option<&AuditNote>) -> Result<FailedEventChange, Error>;

    /// Makes an event that is scheduled, retrying or deferred due now. The next promotion moves it to its lane.
    async fn run_now(&self, id: EventId, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error>;

    /// Discards an event that is queued or due later, in one step with which no claim interferes. Its record keeps `reason`
    /// and its attempts.
    async fn cancel(&self, id: EventId, reason: &str, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error>;

    /// Totals that survive restarts, and how many events the store holds.
    async fn stats(&self) -> Result<BrokerStats, Error>;
}

/// An event to append.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendRequest {
    /// The record of a new event.
    pub record: EventRecord,
    /// The lane that the current routing gives it.
    pub lane: Lane,
    /// When it may be delivered for the first time.
    pub start: DeliveryStart,
    /// What recognizes the event if it is sent again.
    pub idempotency: Option<Idempotency>,
}

/// The answer to an accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedEvent {
    /// The id of the event; for a duplicate, the id of the first one.
    pub id: EventId,
    /// The event was known already, and nothing was appended.
    pub duplicate: bool,
}

/// An event and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundEvent {
    /// The event and its attempts.
    pub record: EventRecord,
    /// The state of the event.
    pub state: EventState,
    /// When a `scheduled` or `retrying` event is due.
    pub due: Option<Timestamp>,
}

/// About the most bytes on a page of ended events (G12). The event that exceeds it is still on the page.
pub const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Which ended events to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedQuery {
    /// Processed events or failed ones.
    pub ending: EndKind,
    /// Only events of this type.
    pub event_type: Option<EventType>,
    /// Only failures of this class. Processed events have none.
    pub class: Option<FailureClass>,
    /// Only failed events that count against this lane. Processed events are in no lane.
    pub lane: Option<Lane>,
    /// Only events that ended at this time or later.
    pub since: Option<Timestamp>,
    /// Only events that ended before this time.
    pub until: Option<Timestamp>,
    /// The most events of a page, 1 to 1,000.
    pub limit: usize,
    /// [`EndedPage::next_cursor`] of the page before; `None` for the first page.
    pub cursor: Option<String>,
    /// The caller does not need payloads and results. A store that can leave them out reads far less.
    pub only_heads: bool,
}

impl EndedQuery {
    /// The first page of all processed or all failed events.
    pub fn all(ending: EndKind, limit: usize) -> Self {
        Self {
            ending,
            event_type: None,
            class: None,
            lane: None,
            since: None,
            until: None,
            limit,
            cursor: None,
            only_heads: false,
        }
    }
}

/// How an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// It was processed.
    Processed,
    /// It failed.
    Failed,
}

/// A page of ended events.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedPage {
    /// The events, newest first. There may be fewer than asked for, or none, although more follow.
    pub records: Vec<EventRecord>,
    /// The cursor of the next page; `None` on the last one.
    pub next_cursor: Option<String>,
}

/// The result of [`EventLog::replay`] and of [`EventLog::discard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedEventChange {
    /// The event waits in its lane again, or is discarded.
    Done,
    /// The event has not failed.
    NotFailed(EventState),
    /// There is no such event.
    Unknown,
}

/// The result of [`EventLog::run_now`] and of [`EventLog::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingEventChange {
    /// The event is due now, or is discarded.
    Done,
    /// The event does not wait as the call needs it.
    NotWaiting(EventState),
    /// There is no such event.
    Unknown,
}
