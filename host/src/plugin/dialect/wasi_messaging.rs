//! The draft of `wasi:messaging`: messages are host objects, their metadata are the attributes of the event, and sending one
//! publishes an event.
//!
//! All that a guest puts into a message counts as data passed to the host, so messages cannot hold more than that limit.

#![allow(missing_docs, reason = "generated; the WIT file is the documentation")]

use wasmtime::Store;
use wasmtime::component::Resource;

pub(super) use self::exports::wasi::messaging::incoming_handler::{Guest, GuestIndices as Indices};
use self::wasi::messaging::types::{self, Error as MessagingError};
use self::wasi::messaging::{producer, request_reply};
use super::event_form::{HandlerAnswer, attributes, failure, payload};
use crate::event::{Event, FailureClass};
use crate::plugin::host_api::InstanceHost;
use crate::plugin::host_api::bindings::eventstream::plugin::publisher::{Error, Host as Publisher, NewEvent};
pub use crate::plugin::host_api::guest::{GuestMessage, MessagingClient, RequestOptions};

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
    handler: &Guest,
    store: &mut Store<InstanceHost>,
    event: &Event,
) -> wasmtime::Result<HandlerAnswer> {
    let message = store.data_mut().table.push(GuestMessage {
        topic: Some(event.event_type.as_str().to_owned()),
        content_type: event.data_content_type.clone(),
        data: payload(event),
        metadata: Some(attributes(event)),
    })?;
    let answer = handler.call_handle(&mut *store, message).await?;
    Ok(answer.map(|()| None).map_err(|error| {
        let (class, words) = match error {
            MessagingError::Timeout => (FailureClass::Retry, "the handler returned a timeout".to_owned()),
            MessagingError::Connection(words) => (FailureClass::Retry, format!("connection: {words}")),
            MessagingError::PermissionDenied(words) => (FailureClass::Reject, format!("permission denied: {words}")),
            MessagingError::Other(words) => (FailureClass::Retry, words),
        };
        failure(class, words)
    }))
}

/// Attributes that the host sets on every event. Metadata with these names is ignored.
const HOST_ATTRIBUTES: [&str; 5] = ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"];

impl types::Host for InstanceHost {}

impl types::HostClient for InstanceHost {
    fn connect(&mut self, name: String) -> wasmtime::Result<Result<Resource<MessagingClient>, MessagingError>> {
        self.output.charge(name.len())?;
        Ok(Ok(self.table.push(MessagingClient)?))
    }

    fn disconnect(&mut self, _client: Resource<MessagingClient>) -> wasmtime::Result<Result<(), MessagingError>> {
        Ok(Ok(()))
    }

    fn drop(&mut self, client: Resource<MessagingClient>) -> wasmtime::Result<()> {
        self.table.delete(client)?;
        Ok(())
    }
}

impl types::HostMessage for InstanceHost {
    fn new(&mut self, data: Vec<u8>) -> wasmtime::Result<Resource<GuestMessage>> {
        self.output.charge(data.len())?;
        Ok(self.table.push(GuestMessage { data, ..GuestMessage::default() })?)
    }

    fn topic(&mut self, message: Resource<GuestMessage>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.topic.clone())
    }

    fn content_type(&mut self, message: Resource<GuestMessage>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.content_type.clone())
    }

    fn set_content_type(&mut self, message: Resource<GuestMessage>, content_type: String) -> wasmtime::Result<()> {
        self.output.charge(content_type.len())?;
        self.table.get_mut(&message)?.content_type = Some(content_type);
        Ok(())
    }

    fn data(&mut self, message: Resource<GuestMessage>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&message)?.data.clone())
    }

    fn set_data(&mut self, message: Resource<GuestMessage>, data: Vec<u8>) -> wasmtime::Result<()> {
        self.output.charge(data.len())?;
        self.table.get_mut(&message)?.data = data;
        Ok(())
    }

    fn metadata(&mut self, message: Resource<GuestMessage>) -> wasmtime::Result<Option<Vec<(String, String)>>> {
        Ok(self.table.get(&message)?.metadata.clone())
    }

    fn add_metadata(&mut self, message: Resource<GuestMessage>, key: String, value: String) -> wasmtime::Result<()> {
        // The size of an empty pair counts too, because a guest can add any number of them.
        self.output.charge(size_of::<(String, String)>() + key.len() + value.len())?;
        self.table.get_mut(&message)?.metadata.get_or_insert_default().push((key, value));
        Ok(())
    }

    fn set_metadata(&mut self, message: Resource<GuestMessage>, meta: Vec<(String, String)>) -> wasmtime::Result<()> {
        let pairs = meta.iter().map(|(key, value)| size_of::<(String, String)>() + key.len() + value.len());
        self.output.charge(pairs.sum())?;
        self.table.get_mut(&message)?.metadata = Some(meta);
        Ok(())
    }

    fn remove_metadata(&mut self, message: Resource<GuestMessage>, key: String) -> wasmtime::Result<()> {
        self.output.charge(key.len())?;
        if let Some(metadata) = &mut self.table.get_mut(&message)?.metadata {
            metadata.retain(|(name, _)| *name != key);
        }
        Ok(())
    }

    fn drop(&mut self, message: Resource<GuestMessage>) -> wasmtime::Result<()> {
        self.table.delete(message)?;
        Ok(())
    }
}

impl producer::Host for InstanceHost {
    fn send(
        &mut self,
        _client: Resource<MessagingClient>,
        topic: String,
        message: Resource<GuestMessage>,
    ) -> wasmtime::Result<Result<(), MessagingError>> {
        let message = self.table.delete(message)?;
        let new = to_event(topic, message.content_type, message.metadata.unwrap_or_default());
        Ok(Publisher::publish(self, new.with_bytes(message.data))?.map(drop).map_err(|error| match error {
            Error::Denied(words) => MessagingError::PermissionDenied(words),
            other => MessagingError::Other(other.words().to_owned()),
        }))
    }
}

impl request_reply::Host for InstanceHost {
    fn request(
        &mut self,
        _client: Resource<MessagingClient>,
        topic: String,
        _message: Resource<GuestMessage>,
        _options: Option<Resource<RequestOptions>>,
    ) -> wasmtime::Result<Result<Vec<Resource<GuestMessage>>, MessagingError>> {
        self.output.charge(topic.len())?;
        let words = "request is not offered: messages are sent when the handler has ended; use producer.send";
        Ok(Err(MessagingError::Other(words.into())))
    }

    fn reply(
        &mut self,
        _reply_to: Resource<GuestMessage>,
        message: Resource<GuestMessage>,
    ) -> wasmtime::Result<Result<(), MessagingError>> {
        self.table.delete(message)?;
        let words = "reply is not offered: events have no replies";
        self.current.publishing.refuse(words);
        Ok(Err(MessagingError::Other(words.into())))
    }
}

impl request_reply::HostRequestOptions for InstanceHost {
    fn new(&mut self) -> wasmtime::Result<Resource<RequestOptions>> {
        Ok(self.table.push(RequestOptions)?)
    }

    fn set_timeout_ms(&mut self, _options: Resource<RequestOptions>, _timeout_ms: u32) -> wasmtime::Result<()> {
        Ok(())
    }

    fn set_expected_replies(&mut self, _options: Resource<RequestOptions>, _replies: u32) -> wasmtime::Result<()> {
        Ok(())
    }

    fn drop(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<()> {
        self.table.delete(options)?;
        Ok(())
    }
}

/// The event for a message. The metadata `ce-subject` is its subject; any other name, with `ce-` or without, is an
/// extension.
fn to_event(topic: String, content_type: Option<String>, metadata: Vec<(String, String)>) -> NewEvent {
    let mut new = NewEvent { datacontenttype: content_type, ..NewEvent::of_type(topic) };
    for (name, value) in metadata {
        match name.as_str() {
            name if HOST_ATTRIBUTES.contains(&name) => {}
            "ce-subject" => new.subject = Some(value),
            _ => new.extensions.push((name.strip_prefix("ce-").unwrap_or(&name).to_owned(), value)),
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_becomes_attributes_except_those_that_the_host_sets() {
        let metadata =
            [("ce-id", "1"), ("ce-type", "t"), ("ce-subject", "s"), ("ce-traceparent", "p"), ("tenant", "x")];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let new = to_event("child".into(), Some("text/plain".into()), metadata);
        assert_eq!((new.type_.as_str(), new.subject.as_deref()), ("child", Some("s")));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(new.extensions, [pair("traceparent", "p"), pair("tenant", "x")]);
    }
}
