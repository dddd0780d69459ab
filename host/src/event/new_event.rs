//! The result of validating a request: events that may be appended, or everything that is wrong with it.

use super::cloud_event::Event;
use super::time::Timestamp;

/// A valid event that may be appended.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The event.
    pub event: Event,
    /// When it may first be delivered.
    pub start: DeliveryStart,
    /// How the server recognizes the same event when the client sends it again.
    pub idempotency: Option<Idempotency>,
}

/// When an event may first be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStart {
    /// Immediately.
    Now,
    /// This many milliseconds after the append, by the broker's clock.
    InMs(u64),
    /// Not before this time, by the broker's clock.
    At(Timestamp),
}

/// What identifies a sent event, and a digest of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// A digest of the `Idempotency-Key` and the event's index in the body, or of `source` and `id`.
    pub key: [u8; 32],
    /// A digest of what was sent with this key: of the whole body, or of the event.
    pub fingerprint: [u8; 32],
}

/// Why the server accepted no event of a request. Sending the same body again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectedRequest {
    /// The body is not JSON, or not events; HTTP 400.
    #[error("the body cannot be read as JSON events")]
    Malformed(Vec<EventFault>),
    /// The body is well-formed, but an event in it is invalid; HTTP 422.
    #[error("the body is not a valid event")]
    Invalid(Vec<EventFault>),
    /// A payload or the batch exceeds its limit; HTTP 413.
    #[error("the body is larger than the server accepts")]
    TooLarge(Vec<EventFault>),
}

/// One thing that is wrong, and its place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct EventFault {
    /// A JSON pointer (RFC 6901) into the body; empty for the body itself.
    pub pointer: String,
    /// What is wrong there, and what is valid.
    pub message: String,
}

impl EventFault {
    /// Describes a fault at the place that the pointer names.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}
