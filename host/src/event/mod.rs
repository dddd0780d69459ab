//! An event and its record: what was accepted, each attempt, what follows from it, and how the event ended.
//!
//! The code here does no I/O and never waits; only [`EventId::new`] reads the clock. A value of one of these
//! types is valid by construction. Input from clients becomes an event in [`ParsedBody`] only.

mod attempt_detail;
mod attempt_limits;
mod cloud_event;
mod draft;
mod event_body;
mod id;
mod json;
pub mod limits;
pub mod media_type;
mod outcome;
mod pattern;
mod plugin_state;
mod reader;
mod record;
mod retry;
mod time;

pub use attempt_detail::AttemptDetail;
pub use attempt_limits::AttemptLimits;
pub use cloud_event::{DataKind, Event, EventData};
pub use draft::ParsedBody;
pub use event_body::{DataView, EventBody, data_view};
pub use id::{EventId, EventType, MAX_PLUGIN_NAME_BYTES, is_plugin_name};
pub use limits::EventLimits;
pub use outcome::{
    AttemptEffects, AttemptFailure, AttemptOutcome, PublishedEvent, Settlement, decide_settlement, defer_attempt,
};
pub use pattern::{InvalidPattern, TypePattern};
pub use plugin_state::{
    CounterError, MAX_COUNTER, MAX_STATE_KEY_BYTES, STATE_KEY_OVERHEAD_BYTES, StateChanges, StateWrite, StoredValue,
    add_to_counter, stored_size_bytes,
};
pub use reader::{DeliveryStart, EventFault, Idempotency, NewEvent, RejectedRequest};
pub use record::{AttemptRecord, Discard, EventEnd, EventRecord, EventState, LogLevel, LogLine};
pub use retry::{FailureClass, MAX_PAUSE_MS, RetryPatch, RetryPolicies, RetryPolicy};
pub use time::{Timestamp, to_utc};

pub(crate) use cloud_event::is_zero;
pub(crate) use json::depth_is_within;

/// The `source` of an event whose sender named none.
pub const DEFAULT_SOURCE: &str = "/events";
/// The header that the host adds to every request of a plugin. A server allows a request with it to publish and read only.
pub const SENT_BY_PLUGIN_HEADER: &str = "eventstream-plugin";
