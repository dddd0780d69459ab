//! `log`: lines with a level and fields, kept with the attempt and written to the host's own log.

use super::Guest;
use super::wit::log::{Host, Level};
use crate::event::{LogLevel, LogLine};

impl Host for Guest {
    fn log(&mut self, level: Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let field_bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.output.spend(message.len() + field_bytes)?;
        self.output.log(LogLine { level, message, fields });
        Ok(())
    }
}
