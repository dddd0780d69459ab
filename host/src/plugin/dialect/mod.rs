//! The interfaces by which a component may take events: ours, and those of other hosts, whose components run unmodified.
//!
//! Each dialect has a file: its bindings, how an event is passed, what its answers mean, and what its components import.
//! The files in `wit/` beside it describe the binary interfaces of those hosts. Foreign imports use the same publisher,
//! settings and limits as ours.

#[cfg(test)]
pub(super) mod dialect_tests;
mod event_form;
mod eventstream;
mod interface;
mod spin;
mod wasi_http;
mod wasi_messaging;
mod wasmcloud;

use wasmtime::Store;
use wasmtime::component::{HasSelf, Instance, InstancePre, Linker};

use self::event_form::HandlerAnswer;
use self::spin::Spin;
use self::wasi_messaging::Messaging;
use self::wasmcloud::Wasmcloud;
use super::host_api::InstanceHost;
use crate::event::Event;

pub use self::interface::Dialect;
pub(super) use self::interface::versioned;

/// Adds what components of other hosts import.
///
/// # Errors
/// Two interfaces have the same name, which does not happen.
pub(super) fn add_to_linker(linker: &mut Linker<InstanceHost>) -> wasmtime::Result<()> {
    Messaging::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    Wasmcloud::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    Spin::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

/// Defines the handler for these dialects, each with its module. Their generated types differ, so a macro writes the arms.
macro_rules! handler_export {
    ($($dialect:ident in $module:ident),+) => {
        /// The handler of a component, found by name and called in the component's instances.
        pub(super) enum HandlerExport {
            $($dialect($module::Indices)),+
        }

        impl HandlerExport {
            /// Finds the handler of a component by name.
            ///
            /// # Errors
            /// The component does not export the interface or one of its functions.
            pub(super) fn find(dialect: Dialect, pre: &InstancePre<InstanceHost>) -> wasmtime::Result<Self> {
                Ok(match dialect {
                    $(Dialect::$dialect => Self::$dialect($module::Indices::new(pre)?)),+
                })
            }

            /// The dialect of the handler.
            pub(super) fn dialect(&self) -> Dialect {
                match self {
                    $(Self::$dialect(_) => Dialect::$dialect),+
                }
            }

            /// Checks the types of the handler's functions in an instance, without a call.
            ///
            /// # Errors
            /// A function has another type.
            pub(super) fn check(&self, store: &mut Store<InstanceHost>, instance: &Instance) -> wasmtime::Result<()> {
                match self {
                    $(Self::$dialect(indices) => indices.load(store, instance).map(drop)),+
                }
            }

            /// Calls the handler of an instance with an event.
            ///
            /// # Errors
            /// Errors of the engine, traps among them.
            pub(super) async fn call(
                &self,
                store: &mut Store<InstanceHost>,
                instance: &Instance,
                event: &Event,
            ) -> wasmtime::Result<HandlerAnswer> {
                match self {
                    $(Self::$dialect(indices) => {
                        let handler = indices.load(&mut *store, instance)?;
                        $module::call(&handler, store, event).await
                    })+
                }
            }
        }
    };
}

handler_export! {
    Eventstream in eventstream,
    WasiMessaging in wasi_messaging,
    Wasmcloud in wasmcloud,
    SpinRedis in spin,
    WasiHttp in wasi_http
}
