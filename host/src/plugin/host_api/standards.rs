//! `wasi:config` and `wasi:logging` in the versions that are in use: other interfaces to the plugin's settings and log.

use wasmtime::component::{HasSelf, Linker};

use super::guest::GuestState;
use crate::event::{LogLevel, LogLine};

mod config {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/standards/config.wit",
        imports: { default: trappable },
    });
}

mod config_2024 {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/standards/config-2024.wit",
        imports: { default: trappable },
    });
}

mod logging {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/standards/logging.wit",
        imports: { default: trappable },
    });
}

/// Adds all of them to a linker.
///
/// # Errors
/// The linker has one of them already.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    config::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    config_2024::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    logging::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

/// Both versions of `wasi:config` are the same. Their generated types differ, so a macro writes them twice.
macro_rules! config_store {
    ($config:ident) => {
        impl $config::wasi::config::store::Host for GuestState {
            fn get(
                &mut self,
                key: String,
            ) -> wasmtime::Result<Result<Option<String>, $config::wasi::config::store::Error>> {
                self.output.charge(key.len())?;
                Ok(Ok(self.context.config.get(&key).cloned()))
            }

            fn get_all(
                &mut self,
            ) -> wasmtime::Result<Result<Vec<(String, String)>, $config::wasi::config::store::Error>> {
                Ok(Ok(self.context.config.clone().into_iter().collect()))
            }
        }
    };
}

config_store!(config);
config_store!(config_2024);

impl logging::wasi::logging::logging::Host for GuestState {
    fn log(
        &mut self,
        level: logging::wasi::logging::logging::Level,
        context: String,
        message: String,
    ) -> wasmtime::Result<()> {
        use logging::wasi::logging::logging::Level;

        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error | Level::Critical => LogLevel::Error,
        };
        self.output.charge(message.len() + context.len())?;
        let fields = if context.is_empty() { Vec::new() } else { vec![("context".to_owned(), context)] };
        self.output.log(LogLine { level, message, fields });
        Ok(())
    }
}
