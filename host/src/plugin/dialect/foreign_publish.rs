//! How components of other hosts publish: through the same publisher as ours.

use crate::event::media_type;
use crate::plugin::host_api::GuestState;
use crate::plugin::host_api::bindings::eventstream::plugin::publisher::{Error, Host as _, NewEvent};
use crate::plugin::host_api::bindings::eventstream::plugin::types::EventData;

impl GuestState {
    /// Publishes bytes from an interface that does not tell text from binary data. Valid UTF-8 is text, unless the content
    /// type says otherwise.
    pub(super) fn publish_bytes(&mut self, bytes: Vec<u8>, new: NewEvent) -> wasmtime::Result<Result<String, Error>> {
        let content_type = new.datacontenttype.as_deref();
        let may_be_text = content_type.is_none_or(|it| it.starts_with("text/") || media_type::is_json(it));
        let data = match may_be_text {
            true => {
                String::from_utf8(bytes).map_or_else(|error| EventData::Binary(error.into_bytes()), EventData::Text)
            }
            false => EventData::Binary(bytes),
        };
        self.publish(NewEvent { data: Some(data), ..new })
    }
}

/// A new event with nothing but a type.
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

/// The message of a refused publish.
pub(super) fn words(error: Error) -> String {
    match error {
        Error::Denied(words) | Error::Invalid(words) | Error::TooLarge(words) | Error::TooMany(words) => words,
    }
}
