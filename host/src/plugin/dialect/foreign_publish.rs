//! How components of other hosts publish: through the same publisher as ours.

use crate::event::media_type;
use crate::plugin::host_api::GuestState;
use crate::plugin::host_api::bindings::eventstream::plugin::publisher::{Error, Host as _, NewEvent};
use crate::plugin::host_api::bindings::eventstream::plugin::types::EventData;

impl GuestState {
    /// Publishes bytes that came without a word on whether they are text: they are if they can be, unless their content
    /// type says otherwise.
    pub(super) fn publish_bytes(&mut self, bytes: Vec<u8>, new: NewEvent) -> wasmtime::Result<Result<String, Error>> {
        let content_type = new.datacontenttype.as_deref();
        let is_text = content_type.is_none_or(|it| it.starts_with("text/") || media_type::is_json(it));
        let data = match is_text {
            true => String::from_utf8(bytes).map_or_else(|no| EventData::Binary(no.into_bytes()), EventData::Text),
            false => EventData::Binary(bytes),
        };
        self.publish(NewEvent { data: Some(data), ..new })
    }
}

/// A new event of a type, with nothing else said of it.
pub(super) fn new_event(event_type: String) -> NewEvent {
    NewEvent {
        type_: event_type,
        subject: None,
        datacontenttype: None,
        extensions: Vec::new(),
        data: None,
        delay_ms: None,
    }
}

/// The words of a publish that was refused.
pub(super) fn words(error: Error) -> String {
    match error {
        Error::Denied(words) | Error::Invalid(words) | Error::TooLarge(words) | Error::TooMany(words) => words,
    }
}
