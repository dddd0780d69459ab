//! The dialect of this host: the package in `wit/`.

use wasmtime::Store;

use super::event_form::{HandlerAnswer, failure, utc};
use crate::event::{AttemptFailure, DataKind, Event, EventData, FailureClass};
use crate::plugin::host_api::InstanceHost;
use crate::plugin::host_api::bindings::eventstream::plugin::types::{Event as WitEvent, EventData as WitEventData};
use crate::plugin::host_api::bindings::exports::eventstream::plugin::handler::Failure as WitFailure;
pub(super) use crate::plugin::host_api::bindings::exports::eventstream::plugin::handler::{
    Guest, GuestIndices as Indices,
};

pub(super) async fn call(
    handler: &Guest,
    store: &mut Store<InstanceHost>,
    event: &Event,
) -> wasmtime::Result<HandlerAnswer> {
    Ok(match handler.call_handle(&mut *store, &to_wit(event)).await? {
        Ok(result) => Ok(result.map(|result| match result {
            WitEventData::Text(text) => EventData::text(text),
            WitEventData::Binary(bytes) => EventData::binary(bytes),
        })),
        Err(WitFailure::Retry(retry)) => {
            Err(AttemptFailure { after_ms: retry.after_ms, ..failure(FailureClass::Retry, retry.message) })
        }
        Err(WitFailure::Reject(message)) => Err(failure(FailureClass::Reject, message)),
    })
}

fn to_wit(event: &Event) -> WitEvent {
    let mut extensions: Vec<_> = event.extensions.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    extensions.extend(event.cause.map(|cause| ("causationid".to_owned(), cause.to_string())));
    WitEvent {
        id: event.id.to_string(),
        source: event.source.clone(),
        type_: event.event_type.as_str().to_owned(),
        subject: event.subject.clone(),
        time: Some(utc(event)),
        datacontenttype: event.data_content_type.clone(),
        dataschema: event.data_schema.clone(),
        extensions,
        data: event.data.as_ref().map(|data| match (data.kind, data.as_text()) {
            (DataKind::Text, Some(text)) => WitEventData::Text(text.to_owned()),
            _ => WitEventData::Binary(data.bytes.to_vec()),
        }),
    }
}
