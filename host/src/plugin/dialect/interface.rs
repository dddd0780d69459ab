//! The names of the dialects, and of the interfaces that their components export.

/// How a component receives events, in the order of precedence.
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
    /// HTTP requests.
    WasiHttp,
}

impl Dialect {
    /// All dialects, in the order of precedence.
    pub const ALL: [Self; 5] =
        [Self::Eventstream, Self::WasiMessaging, Self::Wasmcloud, Self::SpinRedis, Self::WasiHttp];

    /// The interface that a component of this dialect exports: name and version. The version is empty if there is none.
    pub fn export(self) -> (&'static str, &'static str) {
        match self {
            Self::Eventstream => ("eventstream:plugin/handler", "0.1.0"),
            Self::WasiMessaging => ("wasi:messaging/incoming-handler", "0.2.0-draft"),
            Self::Wasmcloud => ("wasmcloud:messaging/handler", "0.2.0"),
            Self::SpinRedis => ("fermyon:spin/inbound-redis", ""),
            Self::WasiHttp => ("wasi:http/incoming-handler", "0.2.0"),
        }
    }

    /// The interface that a component of this dialect exports, with its version.
    pub fn interface(self) -> String {
        let (name, version) = self.export();
        versioned(name, version)
    }
}

/// The name of an interface with its version, if it has one.
pub fn versioned(interface: &str, version: &str) -> String {
    match version {
        "" => interface.to_owned(),
        version => format!("{interface}@{version}"),
    }
}
