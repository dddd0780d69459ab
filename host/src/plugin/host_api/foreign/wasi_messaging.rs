//! The draft of wasi:messaging: messages that a guest makes and reads, and sending them, which is a publish of ours.
//!
//! All that a guest puts into a message is counted as handed over, so that messages cannot hold more than an attempt may
//! hand to the host. A client is a word without a meaning: there is one place to send to.

use wasmtime::component::Resource;

use super::{Error, GuestState, NewEvent, new_event, words};
use crate::plugin::dialect::wasi_messaging::wasi::messaging::types::{self, Error as MessagingError};
use crate::plugin::dialect::wasi_messaging::wasi::messaging::{producer, request_reply};

/// What `connect` gives.
#[derive(Debug)]
pub struct MessagingClient;

/// A message on its way to a handler, or made by one.
#[derive(Debug, Default)]
pub struct GuestMessage {
    pub(in crate::plugin) topic: Option<String>,
    pub(in crate::plugin) content_type: Option<String>,
    pub(in crate::plugin) data: Vec<u8>,
    pub(in crate::plugin) metadata: Option<Vec<(String, String)>>,
}

impl GuestMessage {
    /// What it holds.
    pub(in crate::plugin::host_api) fn size_bytes(&self) -> usize {
        let pairs = self.metadata.iter().flatten();
        let pairs = pairs.map(|(name, value)| size_of::<(String, String)>() + name.len() + value.len());
        let texts = [&self.topic, &self.content_type].into_iter().flatten().map(String::len);
        self.data.len() + texts.chain(pairs).sum::<usize>()
    }
}

/// How long to wait for how many replies, which are not offered.
#[derive(Debug)]
pub struct RequestOptions;

/// Attributes that the host gives to every event, whatever a message says of them.
const GIVEN: [&str; 5] = ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"];

impl GuestState {
    /// Hands a message to the guest.
    ///
    /// # Errors
    /// The guest holds too many handles.
    pub(in crate::plugin) fn message(&mut self, message: GuestMessage) -> wasmtime::Result<Resource<GuestMessage>> {
        Ok(self.table.push(message)?)
    }
}

impl types::Host for GuestState {}

impl types::HostClient for GuestState {
    fn connect(&mut self, name: String) -> wasmtime::Result<Result<Resource<MessagingClient>, MessagingError>> {
        self.output.spend(name.len())?;
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

impl types::HostMessage for GuestState {
    fn new(&mut self, data: Vec<u8>) -> wasmtime::Result<Resource<GuestMessage>> {
        self.output.spend(data.len())?;
        self.message(GuestMessage { data, ..GuestMessage::default() })
    }

    fn topic(&mut self, message: Resource<GuestMessage>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.topic.clone())
    }

    fn content_type(&mut self, message: Resource<GuestMessage>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.content_type.clone())
    }

    fn set_content_type(&mut self, message: Resource<GuestMessage>, content_type: String) -> wasmtime::Result<()> {
        self.output.spend(content_type.len())?;
        self.table.get_mut(&message)?.content_type = Some(content_type);
        Ok(())
    }

    fn data(&mut self, message: Resource<GuestMessage>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&message)?.data.clone())
    }

    fn set_data(&mut self, message: Resource<GuestMessage>, data: Vec<u8>) -> wasmtime::Result<()> {
        self.output.spend(data.len())?;
        self.table.get_mut(&message)?.data = data;
        Ok(())
    }

    fn metadata(&mut self, message: Resource<GuestMessage>) -> wasmtime::Result<Option<Vec<(String, String)>>> {
        Ok(self.table.get(&message)?.metadata.clone())
    }

    fn add_metadata(&mut self, message: Resource<GuestMessage>, key: String, value: String) -> wasmtime::Result<()> {
        // What a pair costs beside its text, so that empty ones are not free.
        self.output.spend(size_of::<(String, String)>() + key.len() + value.len())?;
        self.table.get_mut(&message)?.metadata.get_or_insert_default().push((key, value));
        Ok(())
    }

    fn set_metadata(&mut self, message: Resource<GuestMessage>, meta: Vec<(String, String)>) -> wasmtime::Result<()> {
        let pairs = meta.iter().map(|(key, value)| size_of::<(String, String)>() + key.len() + value.len());
        self.output.spend(pairs.sum())?;
        self.table.get_mut(&message)?.metadata = Some(meta);
        Ok(())
    }

    fn remove_metadata(&mut self, message: Resource<GuestMessage>, key: String) -> wasmtime::Result<()> {
        self.output.spend(key.len())?;
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

impl producer::Host for GuestState {
    fn send(
        &mut self,
        _client: Resource<MessagingClient>,
        topic: String,
        message: Resource<GuestMessage>,
    ) -> wasmtime::Result<Result<(), MessagingError>> {
        let message = self.table.delete(message)?;
        let new = to_event(topic, message.content_type, message.metadata.unwrap_or_default());
        Ok(self.publish_bytes(message.data, new)?.map(drop).map_err(|error| match error {
            Error::Denied(words) => MessagingError::PermissionDenied(words),
            other => MessagingError::Other(words(other)),
        }))
    }
}

impl request_reply::Host for GuestState {
    fn request(
        &mut self,
        _client: Resource<MessagingClient>,
        topic: String,
        _message: Resource<GuestMessage>,
        _options: Option<Resource<RequestOptions>>,
    ) -> wasmtime::Result<Result<Vec<Resource<GuestMessage>>, MessagingError>> {
        self.output.spend(topic.len())?;
        let words = "request is not offered: what a handler sends is sent when it has ended; use producer.send";
        Ok(Err(MessagingError::Other(words.into())))
    }

    fn reply(
        &mut self,
        _reply_to: Resource<GuestMessage>,
        message: Resource<GuestMessage>,
    ) -> wasmtime::Result<Result<(), MessagingError>> {
        self.table.delete(message)?;
        let words = "reply is not offered: nobody waits for replies to an event";
        self.current.publishing.refuse(words);
        Ok(Err(MessagingError::Other(words.into())))
    }
}

impl request_reply::HostRequestOptions for GuestState {
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

/// A message's metadata as attributes of the event that it becomes: `ce-subject` is the subject, any other name, with
/// `ce-` or without, an extension.
fn to_event(topic: String, content_type: Option<String>, metadata: Vec<(String, String)>) -> NewEvent {
    let mut new = NewEvent { datacontenttype: content_type, ..new_event(topic) };
    for (name, value) in metadata {
        match name.as_str() {
            name if GIVEN.contains(&name) => {}
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
    fn metadata_becomes_attributes_and_what_the_host_gives_is_left_out() {
        let metadata =
            [("ce-id", "1"), ("ce-type", "t"), ("ce-subject", "s"), ("ce-traceparent", "p"), ("tenant", "x")];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let new = to_event("child".into(), Some("text/plain".into()), metadata);
        assert_eq!((new.type_.as_str(), new.subject.as_deref()), ("child", Some("s")));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(new.extensions, [pair("traceparent", "p"), pair("tenant", "x")]);
    }
}
