//! An event in the forms that the dialects pass: payload bytes and CloudEvents attributes.

use crate::event::{AttemptFailure, Event, EventData, FailureClass, to_utc};
use crate::plugin::run::outcome;

/// A handler's answer: its result, or why it did not process the event.
pub type HandlerAnswer = Result<Option<EventData>, AttemptFailure>;

/// A failure with a message that the handler may have written.
pub(super) fn failure(class: FailureClass, message: impl Into<String>) -> AttemptFailure {
    AttemptFailure::new(class, outcome::cut_message(message))
}

/// The bytes of an event's data; empty for an event without data.
pub(super) fn payload(event: &Event) -> Vec<u8> {
    event.data.as_ref().map_or_else(Vec::new, |data| data.bytes.to_vec())
}

/// The context attributes of an event, named as in the CloudEvents HTTP binding.
pub(super) fn attributes(event: &Event) -> Vec<(String, String)> {
    let mut attributes = vec![
        ("ce-specversion".to_owned(), "1.0".to_owned()),
        ("ce-id".to_owned(), event.id.to_string()),
        ("ce-source".to_owned(), event.source.clone()),
        ("ce-type".to_owned(), event.event_type.as_str().to_owned()),
        ("ce-time".to_owned(), utc(event)),
    ];
    let optional = [("ce-subject", &event.subject), ("ce-dataschema", &event.data_schema)];
    attributes.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    attributes.extend(event.extensions.iter().map(|(name, value)| (format!("ce-{name}"), value.clone())));
    attributes.extend(event.cause.map(|cause| ("ce-causationid".to_owned(), cause.to_string())));
    attributes
}

/// The time of an event in UTC, as `wit/` requires. Without a time from the sender it is the time of acceptance.
pub(super) fn utc(event: &Event) -> String {
    event.time.as_deref().and_then(to_utc).unwrap_or_else(|| event.accepted_at.to_string())
}
