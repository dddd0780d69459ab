//! What components of other hosts import, on the same terms as `publisher` and `config`; one file for each host.

mod spin;
mod wasi_messaging;
mod wasmcloud;

pub use wasi_messaging::{GuestMessage, MessagingClient, RequestOptions};

use wasmtime::component::{HasSelf, Linker};

use super::GuestState;
use super::publisher::is_json;
use super::wit::publisher::{Error, Host as _, NewEvent};
use super::wit::types::EventData;
use crate::plugin::dialect;

/// Adds all of it to a linker.
///
/// # Errors
/// Never, unless two interfaces have one name.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    dialect::wasi_messaging::Messaging::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    dialect::wasmcloud::Wasmcloud::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    dialect::spin::Spin::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

impl GuestState {
    /// Publishes bytes that came without a word on whether they are text: they are if they can be, unless their content
    /// type says otherwise.
    fn publish_bytes(&mut self, bytes: Vec<u8>, new: NewEvent) -> wasmtime::Result<Result<String, Error>> {
        let is_text = new.datacontenttype.as_deref().is_none_or(|said| said.starts_with("text/") || is_json(said));
        let data = match is_text {
            true => String::from_utf8(bytes).map_or_else(|no| EventData::Binary(no.into_bytes()), EventData::Text),
            false => EventData::Binary(bytes),
        };
        self.publish(NewEvent { data: Some(data), ..new })
    }
}

/// A new event of a type, with nothing else said of it.
fn new_event(event_type: String) -> NewEvent {
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
fn words(error: Error) -> String {
    match error {
        Error::Denied(words) | Error::Invalid(words) | Error::TooLarge(words) | Error::TooMany(words) => words,
    }
}
