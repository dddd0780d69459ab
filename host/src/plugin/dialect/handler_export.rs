//! A component's handler, in whichever dialect it is called.

use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use super::event_form::HandlerAnswer;
use super::interface::Dialect;
use super::{eventstream, spin, wasi_http, wasi_messaging, wasmcloud};
use crate::event::Event;
use crate::plugin::host_api::GuestState;

/// The handler of a component, found by name and called in the component's instances.
pub(in crate::plugin) enum HandlerExport {
    Eventstream(eventstream::Indices),
    WasiMessaging(wasi_messaging::Indices),
    Wasmcloud(wasmcloud::Indices),
    SpinRedis(spin::Indices),
    WasiHttp(wasi_http::Indices),
}

impl HandlerExport {
    /// Finds the handler of a component by name.
    ///
    /// # Errors
    /// The component does not export the interface or one of its functions.
    pub(in crate::plugin) fn find(dialect: Dialect, pre: &InstancePre<GuestState>) -> wasmtime::Result<Self> {
        Ok(match dialect {
            Dialect::Eventstream => Self::Eventstream(eventstream::Indices::new(pre)?),
            Dialect::WasiMessaging => Self::WasiMessaging(wasi_messaging::Indices::new(pre)?),
            Dialect::Wasmcloud => Self::Wasmcloud(wasmcloud::Indices::new(pre)?),
            Dialect::SpinRedis => Self::SpinRedis(spin::Indices::new(pre)?),
            Dialect::WasiHttp => Self::WasiHttp(wasi_http::Indices::new(pre)?),
        })
    }

    /// The dialect of the handler.
    pub(in crate::plugin) fn dialect(&self) -> Dialect {
        match self {
            Self::Eventstream(_) => Dialect::Eventstream,
            Self::WasiMessaging(_) => Dialect::WasiMessaging,
            Self::Wasmcloud(_) => Dialect::Wasmcloud,
            Self::SpinRedis(_) => Dialect::SpinRedis,
            Self::WasiHttp(_) => Dialect::WasiHttp,
        }
    }

    /// Checks the types of the handler's functions in an instance, without a call.
    ///
    /// # Errors
    /// A function has another type.
    pub(in crate::plugin) fn check(&self, store: &mut Store<GuestState>, instance: &Instance) -> wasmtime::Result<()> {
        match self {
            Self::Eventstream(indices) => indices.load(store, instance).map(drop),
            Self::WasiMessaging(indices) => indices.load(store, instance).map(drop),
            Self::Wasmcloud(indices) => indices.load(store, instance).map(drop),
            Self::SpinRedis(indices) => indices.load(store, instance).map(drop),
            Self::WasiHttp(indices) => indices.load(store, instance).map(drop),
        }
    }

    /// Calls the handler of an instance with an event.
    ///
    /// # Errors
    /// Errors of the engine, traps among them.
    pub(in crate::plugin) async fn call(
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
