//! wasmCloud's `consumer`: a publish is one of ours; a request is refused, as nobody could answer it in time.

use super::{GuestState, new_event, words};
use crate::plugin::dialect::wasmcloud::wasmcloud::messaging::consumer::{self, BrokerMessage};
use crate::plugin::dialect::wasmcloud::wasmcloud::messaging::types;

impl types::Host for GuestState {}

impl consumer::Host for GuestState {
    fn request(
        &mut self,
        subject: String,
        body: Vec<u8>,
        _timeout_ms: u32,
    ) -> wasmtime::Result<Result<BrokerMessage, String>> {
        self.output.spend(subject.len() + body.len())?;
        Ok(Err("request is not offered: what a handler publishes is sent when it has ended; use publish".into()))
    }

    fn publish(&mut self, message: BrokerMessage) -> wasmtime::Result<Result<(), String>> {
        if message.reply_to.is_some() {
            self.output.spend(message.subject.len() + message.body.len())?;
            let words = "reply-to is not offered: nobody waits for replies to an event";
            self.current.publishing.refuse(words);
            return Ok(Err(words.into()));
        }
        let answer = self.publish_bytes(message.body, new_event(message.subject))?;
        Ok(answer.map(drop).map_err(words))
    }
}
