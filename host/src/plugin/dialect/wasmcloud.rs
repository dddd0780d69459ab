//! wasmCloud's messaging: passes a subject and a body, and every error is retried. A publish is ours; requests are refused,
//! because no reply could arrive before the attempt ends.

#![allow(missing_docs, reason = "generated; the WIT file is the documentation")]

use wasmtime::Store;

use self::exports::wasmcloud::messaging::handler::BrokerMessage;
pub(super) use self::exports::wasmcloud::messaging::handler::{Guest, GuestIndices as Indices};
use self::wasmcloud::messaging::consumer;
use self::wasmcloud::messaging::types;
use super::event_form::{HandlerAnswer, failure, payload};
use crate::event::{Event, FailureClass};
use crate::plugin::host_api::InstanceHost;
use crate::plugin::host_api::bindings::eventstream::plugin::publisher::{Host as Publisher, NewEvent};

wasmtime::component::bindgen!({
    path: "src/plugin/dialect/wit/wasmcloud-messaging.wit",
    inline: "
        package eventstream:dialect;
        world wasmcloud {
            import wasmcloud:messaging/consumer@0.2.0;
            export wasmcloud:messaging/handler@0.2.0;
        }
    ",
    world: "eventstream:dialect/wasmcloud",
    imports: { default: trappable },
    exports: { default: async },
});

pub(super) async fn call(
    handler: &Guest,
    store: &mut Store<InstanceHost>,
    event: &Event,
) -> wasmtime::Result<HandlerAnswer> {
    let message = BrokerMessage { subject: event.event_type.as_str().to_owned(), body: payload(event), reply_to: None };
    let answer = handler.call_handle_message(&mut *store, &message).await?;
    Ok(answer.map(|()| None).map_err(|words| failure(FailureClass::Retry, words)))
}

impl types::Host for InstanceHost {}

impl consumer::Host for InstanceHost {
    fn request(
        &mut self,
        subject: String,
        body: Vec<u8>,
        _timeout_ms: u32,
    ) -> wasmtime::Result<Result<BrokerMessage, String>> {
        self.output.charge(subject.len() + body.len())?;
        Ok(Err("request is not offered: events are published when the handler has ended; use publish".into()))
    }

    fn publish(&mut self, message: BrokerMessage) -> wasmtime::Result<Result<(), String>> {
        if message.reply_to.is_some() {
            self.output.charge(message.subject.len() + message.body.len())?;
            let words = "reply-to is not offered: events have no replies";
            self.current.publishing.refuse(words);
            return Ok(Err(words.into()));
        }
        let new = NewEvent::of_type(message.subject).with_bytes(message.body);
        Ok(Publisher::publish(self, new)?.map(drop).map_err(|error| error.words().to_owned()))
    }
}
