//! `log`: lines with a level and fields, kept with the attempt and written to the log of the host.

use super::bindings::eventstream::plugin::log::{Host, Level};
use super::guest::GuestState;
use crate::event::{LogLevel, LogLine};

impl Host for GuestState {
    fn log(&mut self, level: Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let line = LogLine { level, message, fields };
        self.output.charge(line.size_bytes())?;
        self.output.log(line);
        Ok(())
    }
}
