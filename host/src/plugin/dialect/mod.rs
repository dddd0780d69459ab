//! The interfaces by which a component may take events: our own, and those of other hosts, whose components run unmodified.
//!
//! One file for each dialect: its bindings, what it is given of an event and what its answers mean. The shapes in
//! `wit/` beside it are facts of those hosts' binary interfaces. What their components import is served in
//! [`super::host_api`], by the same publisher and with the same limits as for our own.

#[cfg(test)]
pub(super) mod dialect_tests;
mod eventstream;
pub(super) mod spin;
mod wasi_http;
pub(super) mod wasi_messaging;
pub(super) mod wasmcloud;

use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use super::host_api::GuestState;
use crate::event::{AttemptFailure, Event, EventData};

/// How a component takes events. In the order of precedence, for components that speak several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The package in `wit/`.
    Eventstream,
    /// The draft of a standard.
    WasiMessaging,
    /// wasmCloud's own messaging.
    Wasmcloud,
    /// The Redis trigger of Spin, up to version 3 of its SDK.
    SpinRedis,
    /// Requests of HTTP.
    WasiHttp,
}

/// What a handler answered: its result, or why it did not process the event.
pub(super) type HandlerAnswer = Result<Option<EventData>, AttemptFailure>;

/// The interfaces of other hosts that a component may import, their version, and their functions. A test keeps them equal
/// to the files in `wit/`.
pub(super) const IMPORTS: [(&str, &str, &[&str]); 7] = [
    (
        "wasi:messaging/types",
        "0.2.0-draft",
        &[
            "[static]client.connect",
            "[method]client.disconnect",
            "[constructor]message",
            "[method]message.topic",
            "[method]message.content-type",
            "[method]message.set-content-type",
            "[method]message.data",
            "[method]message.set-data",
            "[method]message.metadata",
            "[method]message.add-metadata",
            "[method]message.set-metadata",
            "[method]message.remove-metadata",
        ],
    ),
    ("wasi:messaging/producer", "0.2.0-draft", &["send"]),
    (
        "wasi:messaging/request-reply",
        "0.2.0-draft",
        &[
            "[constructor]request-options",
            "[method]request-options.set-timeout-ms",
            "[method]request-options.set-expected-replies",
            "request",
            "reply",
        ],
    ),
    ("wasmcloud:messaging/types", "0.2.0", &[]),
    ("wasmcloud:messaging/consumer", "0.2.0", &["request", "publish"]),
    ("fermyon:spin/redis-types", "", &[]),
    ("fermyon:spin/variables", "2.0.0", &["get"]),
];

impl Dialect {
    /// All of them, in the order of precedence.
    pub(super) const ALL: [Self; 5] =
        [Self::Eventstream, Self::WasiMessaging, Self::Wasmcloud, Self::SpinRedis, Self::WasiHttp];

    /// The interface that a component exports to speak it, as its name without version and its version; the latter is
    /// empty where the interface has none.
    pub(super) fn export(self) -> (&'static str, &'static str) {
        match self {
            Self::Eventstream => ("eventstream:plugin/handler", "0.1.0"),
            Self::WasiMessaging => ("wasi:messaging/incoming-handler", "0.2.0-draft"),
            Self::Wasmcloud => ("wasmcloud:messaging/handler", "0.2.0"),
            Self::SpinRedis => ("fermyon:spin/inbound-redis", ""),
            Self::WasiHttp => ("wasi:http/incoming-handler", "0.2.0"),
        }
    }

    /// The interface that a component exports to speak it, with its version.
    pub fn interface(self) -> String {
        let (name, version) = self.export();
        versioned(name, version)
    }
}

/// The name of an interface with its version, if it has one.
pub(super) fn versioned(interface: &str, version: &str) -> String {
    match version {
        "" => interface.to_owned(),
        version => format!("{interface}@{version}"),
    }
}

/// Where a component's handler is found in its instances.
pub(super) enum HandlerExport {
    Eventstream(eventstream::Indices),
    WasiMessaging(wasi_messaging::Indices),
    Wasmcloud(wasmcloud::Indices),
    SpinRedis(spin::Indices),
    WasiHttp(wasi_http::Indices),
}

impl HandlerExport {
    /// Looks the handler of a component up, by names only.
    ///
    /// # Errors
    /// The component does not export the interface or a function of it.
    pub(super) fn find(dialect: Dialect, pre: &InstancePre<GuestState>) -> wasmtime::Result<Self> {
        Ok(match dialect {
            Dialect::Eventstream => Self::Eventstream(eventstream::Indices::new(pre)?),
            Dialect::WasiMessaging => Self::WasiMessaging(wasi_messaging::Indices::new(pre)?),
            Dialect::Wasmcloud => Self::Wasmcloud(wasmcloud::Indices::new(pre)?),
            Dialect::SpinRedis => Self::SpinRedis(spin::Indices::new(pre)?),
            Dialect::WasiHttp => Self::WasiHttp(wasi_http::Indices::new(pre)?),
        })
    }

    /// The dialect in which it is called.
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Eventstream(_) => Dialect::Eventstream,
            Self::WasiMessaging(_) => Dialect::WasiMessaging,
            Self::Wasmcloud(_) => Dialect::Wasmcloud,
            Self::SpinRedis(_) => Dialect::SpinRedis,
            Self::WasiHttp(_) => Dialect::WasiHttp,
        }
    }

    /// Looks the handler up in an instance with its types, and does not call it.
    ///
    /// # Errors
    /// A function has another type.
    pub(super) fn check(&self, store: &mut Store<GuestState>, instance: &Instance) -> wasmtime::Result<()> {
        match self {
            Self::Eventstream(indices) => indices.load(store, instance).map(drop),
            Self::WasiMessaging(indices) => indices.load(store, instance).map(drop),
            Self::Wasmcloud(indices) => indices.load(store, instance).map(drop),
            Self::SpinRedis(indices) => indices.load(store, instance).map(drop),
            Self::WasiHttp(indices) => indices.load(store, instance).map(drop),
        }
    }

    /// Hands an event to an instance.
    ///
    /// # Errors
    /// Those of the engine, traps among them.
    pub(super) async fn call(
        &self,
        store: &mut Store<GuestState>,
        instance: &Instance,
        event: &Event,
    ) -> wasmtime::Result<HandlerAnswer> {
        match self {
            Self::Eventstream(indices) => eventstream::call(indices, store, instance, event).await,
            Self::WasiMessaging(indices) => wasi_messaging::call(indices, store, instance, event).await,
            Self::Wasmcloud(indices) => wasmcloud::call(indices, store, instance, event).await,
            Self::SpinRedis(indices) => spin::call(indices, store, instance, event).await,
            Self::WasiHttp(indices) => wasi_http::call(indices, store, instance, event).await,
        }
    }
}

/// The bytes of an event's data; none for an event without.
fn payload(event: &Event) -> Vec<u8> {
    event.data.as_ref().map_or_else(Vec::new, |data| data.bytes.to_vec())
}

/// The context attributes of an event under the names that CloudEvents gives them in headers.
fn attributes(event: &Event) -> Vec<(String, String)> {
    let mut attributes = vec![
        ("ce-specversion".to_owned(), "1.0".to_owned()),
        ("ce-id".to_owned(), event.id.to_string()),
        ("ce-source".to_owned(), event.source.clone()),
        ("ce-type".to_owned(), event.event_type.as_str().to_owned()),
        ("ce-time".to_owned(), eventstream::utc(event)),
    ];
    let optional = [("ce-subject", &event.subject), ("ce-dataschema", &event.data_schema)];
    attributes.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    attributes.extend(event.extensions.iter().map(|(name, value)| (format!("ce-{name}"), value.clone())));
    attributes.extend(event.cause.map(|cause| ("ce-causationid".to_owned(), cause.to_string())));
    attributes
}
