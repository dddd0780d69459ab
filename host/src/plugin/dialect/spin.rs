//! Spin's Redis trigger: passes only the payload, and its error has no message. Variables are the plugin's settings.

#![allow(missing_docs, reason = "generated; the WIT file is the documentation")]

use wasmtime::Store;

use self::exports::fermyon::spin::inbound_redis::Error;
pub(super) use self::exports::fermyon::spin::inbound_redis::{Guest, GuestIndices as Indices};
use self::fermyon::{spin::redis_types, spin2_0_0::variables};
use super::event_form::{HandlerAnswer, failure, payload};
use crate::event::{Event, FailureClass};
use crate::plugin::host_api::InstanceHost;
use crate::plugin::host_api::publish_buffer::short;

wasmtime::component::bindgen!({
    path: ["src/plugin/dialect/wit/spin-variables.wit", "src/plugin/dialect/wit/spin.wit"],
    inline: "
        package eventstream:dialect;
        world spin {
            import fermyon:spin/variables@2.0.0;
            export fermyon:spin/inbound-redis;
        }
    ",
    world: "eventstream:dialect/spin",
    imports: { default: trappable },
    exports: { default: async },
});

pub(super) async fn call(
    handler: &Guest,
    store: &mut Store<InstanceHost>,
    event: &Event,
) -> wasmtime::Result<HandlerAnswer> {
    let answer = handler.call_handle_message(&mut *store, &payload(event)).await?;
    Ok(answer.map(|()| None).map_err(|(Error::Error | Error::Success)| {
        failure(FailureClass::Retry, "the handler returned an error; its standard error may say why")
    }))
}

impl redis_types::Host for InstanceHost {}

impl variables::Host for InstanceHost {
    fn get(&mut self, name: String) -> wasmtime::Result<Result<String, variables::Error>> {
        self.output.charge(name.len())?;
        let value = self.context.config.get(&name).cloned();
        let words = || format!("no {:?} in the plugin's table `config`", short(&name));
        Ok(value.ok_or_else(|| variables::Error::Undefined(words())))
    }
}
