//! The draft of wasi:messaging: a message is an object of the host, its metadata the attributes of the event.

#![allow(missing_docs, reason = "generated; the WIT file is the documentation")]

use wasmtime::Store;
use wasmtime::component::Instance;

pub(super) use self::exports::wasi::messaging::incoming_handler::GuestIndices as Indices;
use self::wasi::messaging::types::Error;
use super::{HandlerAnswer, attributes, payload};
use crate::event::{AttemptFailure, Event, FailureClass};
use crate::plugin::host_api::GuestState;
pub use crate::plugin::host_api::{GuestMessage, MessagingClient, RequestOptions};
use crate::plugin::run::outcome;

wasmtime::component::bindgen!({
    path: "src/plugin/dialect/wit/wasi-messaging.wit",
    inline: "
        package eventstream:dialect;
        world messaging {
            import wasi:messaging/producer@0.2.0-draft;
            import wasi:messaging/request-reply@0.2.0-draft;
            export wasi:messaging/incoming-handler@0.2.0-draft;
        }
    ",
    world: "eventstream:dialect/messaging",
    imports: { default: trappable },
    exports: { default: async },
    with: {
        "wasi:messaging/types.client": MessagingClient,
        "wasi:messaging/types.message": GuestMessage,
        "wasi:messaging/request-reply.request-options": RequestOptions,
    },
});

pub(super) async fn call(
    indices: &Indices,
    store: &mut Store<GuestState>,
    instance: &Instance,
    event: &Event,
) -> wasmtime::Result<HandlerAnswer> {
    let handler = indices.load(&mut *store, instance)?;
    let message = store.data_mut().message(GuestMessage {
        topic: Some(event.event_type.as_str().to_owned()),
        content_type: event.data_content_type.clone(),
        data: payload(event),
        metadata: Some(attributes(event)),
    })?;
    let answer = handler.call_handle(&mut *store, message).await?;
    Ok(answer.map(|()| None).map_err(|error| {
        let (class, words) = match error {
            Error::Timeout => (FailureClass::Retry, "the handler answered that something took too long".to_owned()),
            Error::Connection(words) => (FailureClass::Retry, format!("connection: {words}")),
            Error::PermissionDenied(words) => (FailureClass::Reject, format!("permission denied: {words}")),
            Error::Other(words) => (FailureClass::Retry, words),
        };
        AttemptFailure::new(class, outcome::message(words))
    }))
}
