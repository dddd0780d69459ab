//! All that a guest says in an attempt: log lines, standard output (as lines) and standard error (the end of it).
//!
//! What is kept is bounded whatever the guest does, and everything handed over is counted: a flood ends the attempt by
//! its limit of host-call data long before it has cost the host anything.

use std::sync::Arc;

use crate::event::{EventId, LogLevel, LogLine};
use crate::plugin::sandbox::limits::{AttemptLimits, LimitBreach};
use crate::plugin::settings::secrets::PluginSecrets;
use crate::printable::Printable;
use parking_lot::{Mutex, MutexGuard};

/// Shared by the interfaces of one attempt and outlives its instance.
#[derive(Debug)]
pub(in crate::plugin) struct AttemptOutput {
    plugin: String,
    event: Mutex<EventId>,
    limits: AttemptLimits,
    secrets: Arc<PluginSecrets>,
    said: Mutex<CapturedOutput>,
}

/// What is kept of what a guest said.
#[derive(Debug, Default)]
pub(in crate::plugin) struct CapturedOutput {
    /// Log lines, those of standard output among them.
    pub(in crate::plugin) log: Vec<LogLine>,
    /// Lines past the limit.
    pub(in crate::plugin) log_lines_dropped: u32,
    spent_bytes: u64,
    stdout_line: Vec<u8>,
    stderr: Vec<u8>,
    stderr_bytes_dropped: u64,
}

impl CapturedOutput {
    /// What is left of standard error; `None` if nothing was written.
    pub(in crate::plugin) fn stderr(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.stderr);
        match (text.trim(), self.stderr_bytes_dropped) {
            ("", _) => None,
            (text, 0) => Some(text.to_owned()),
            (text, dropped) => Some(format!("({dropped} bytes left out)\n{text}")),
        }
    }
}

impl AttemptOutput {
    /// Nothing said yet.
    pub(in crate::plugin) fn new(
        plugin: &str,
        event: EventId,
        limits: AttemptLimits,
        secrets: Arc<PluginSecrets>,
    ) -> Self {
        Self { plugin: plugin.to_owned(), event: Mutex::new(event), limits, secrets, said: Mutex::default() }
    }

    /// Begins anew, for an attempt at another event.
    pub(super) fn begin(&self, event: EventId) {
        *locked(&self.event) = event;
        *self.said() = CapturedOutput::default();
    }

    /// Takes what was said out. Nothing is kept of what is said afterwards.
    pub(in crate::plugin) fn take(&self) -> CapturedOutput {
        let mut said = self.said();
        self.end_line(&mut said);
        self.hide_in_stderr(&mut said);
        keep_end(&mut said, self.limit(self.limits.stderr_bytes));
        std::mem::take(&mut *said)
    }

    /// Counts bytes that the guest handed over.
    ///
    /// # Errors
    /// The limit of host-call data; the attempt ends by it.
    pub(in crate::plugin) fn charge(&self, size_bytes: usize) -> Result<(), LimitBreach> {
        let mut said = self.said();
        said.spent_bytes = said.spent_bytes.saturating_add(size_bytes as u64);
        if said.spent_bytes > self.limits.host_call_bytes {
            return Err(LimitBreach::HostCall { limit_bytes: self.limits.host_call_bytes });
        }
        Ok(())
    }

    /// Keeps a line if there is room for one more.
    pub(super) fn log(&self, line: LogLine) {
        let mut said = self.said();
        self.keep(&mut said, line);
    }

    /// Bytes on standard output; each line becomes a log line of level info.
    pub(super) fn write_stdout(&self, bytes: &[u8]) {
        let mut said = self.said();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            // With room for what is hidden later, so that no value is cut in two before.
            let room = self.limit(self.limits.log_line_bytes).saturating_add(self.secrets.longest_bytes());
            let room = room.saturating_sub(said.stdout_line.len());
            said.stdout_line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_line(&mut said);
            }
        }
    }

    /// Bytes on standard error, of which the last ones are kept: they tell why a guest died.
    pub(super) fn write_stderr(&self, bytes: &[u8]) {
        let mut said = self.said();
        let room = self.limit(self.limits.stderr_bytes).saturating_add(self.secrets.longest_bytes());
        let kept = &bytes[bytes.len().saturating_sub(room)..];
        said.stderr.extend_from_slice(kept);
        said.stderr_bytes_dropped += (bytes.len() - kept.len()) as u64;
        // Twice the room, so that the end is not moved for each write.
        if said.stderr.len() >= room.saturating_mul(2) {
            keep_end(&mut said, room);
        }
    }

    fn end_line(&self, said: &mut CapturedOutput) {
        let bytes = std::mem::take(&mut said.stdout_line);
        let message = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if !message.is_empty() {
            self.keep(said, LogLine { level: LogLevel::Info, message, fields: Vec::new() });
        }
    }

    fn keep(&self, said: &mut CapturedOutput, line: LogLine) {
        if said.log.len() >= self.limit(u64::from(self.limits.log_lines)) {
            said.log_lines_dropped = said.log_lines_dropped.saturating_add(1);
            return;
        }
        let room = self.limit(self.limits.log_line_bytes);
        let line = cut(self.hide(cut(line, room.saturating_add(self.secrets.longest_bytes()))), room);
        self.show(&line);
        said.log.push(line);
    }

    fn hide(&self, line: LogLine) -> LogLine {
        let hide = |text: String| self.secrets.hide_cut_end(&text);
        let fields = line.fields.into_iter().map(|(name, value)| (hide(name), hide(value))).collect();
        LogLine { level: line.level, message: hide(line.message), fields }
    }

    fn hide_in_stderr(&self, said: &mut CapturedOutput) {
        if self.secrets.longest_bytes() == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        let hidden =
            if said.stderr_bytes_dropped == 0 { self.secrets.hide(&text) } else { self.secrets.hide_cut_start(&text) };
        said.stderr = hidden.into_bytes();
    }

    /// Writes a line to the host's log, so that no guest can forge a line of the host's or steer a terminal.
    fn show(&self, line: &LogLine) {
        let mut text = Printable(&line.message).to_string();
        for (name, value) in &line.fields {
            text.push_str(&format!(" {}={:?}", Printable(name), value));
        }
        let (plugin, event) = (&self.plugin, *locked(&self.event));
        match line.level {
            LogLevel::Trace => tracing::trace!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
            LogLevel::Debug => tracing::debug!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
            LogLevel::Info => tracing::info!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
            LogLevel::Warn => tracing::warn!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
            LogLevel::Error => tracing::error!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
        }
    }

    fn limit(&self, limit: u64) -> usize {
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    fn said(&self) -> MutexGuard<'_, CapturedOutput> {
        locked(&self.said)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Drops the beginning of standard error, so that no more than `room` bytes are left.
fn keep_end(said: &mut CapturedOutput, room: usize) {
    let surplus = said.stderr.len().saturating_sub(room);
    said.stderr.drain(..surplus);
    said.stderr_bytes_dropped += surplus as u64;
}

/// The line with no more than `room` bytes, the message first, and no more fields than a line may have.
fn cut(mut line: LogLine, room: usize) -> LogLine {
    line.message.truncate(line.message.floor_char_boundary(room));
    let mut left = room - line.message.len();
    line.fields.truncate(LogLine::MAX_FIELDS);
    line.fields.retain_mut(|(name, value)| {
        let cost = LogLine::FIELD_BYTES + name.len();
        if left <= cost {
            left = 0;
            return false;
        }
        left -= cost;
        value.truncate(value.floor_char_boundary(left));
        left -= value.len();
        true
    });
    // A list keeps the memory of what was cut, and lines are kept for as long as their event's attempt goes from hand to
    // hand.
    line.fields.shrink_to_fit();
    line.message.shrink_to_fit();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> AttemptOutput {
        let limits = AttemptLimits {
            log_lines: 2,
            log_line_bytes: 8,
            stderr_bytes: 8,
            host_call_bytes: 100,
            ..AttemptLimits::default()
        };
        AttemptOutput::new("p", EventId::new(), limits, Arc::default())
    }

    fn messages(said: &CapturedOutput) -> Vec<&str> {
        said.log.iter().map(|line| line.message.as_str()).collect()
    }

    #[test]
    fn standard_output_is_kept_as_lines_of_which_there_are_so_many_and_no_longer() {
        let output = output();
        output.write_stdout(b"one\n\ntw");
        output.write_stdout(b"o is a long one\nthree\n");
        output.write_stdout(b"four");
        let said = output.take();
        assert_eq!(messages(&said), ["one", "two is a"]);
        assert_eq!(said.log_lines_dropped, 2);
    }

    #[test]
    fn the_end_of_standard_error_is_kept() {
        let output = output();
        assert_eq!(output.take().stderr(), None);
        output.write_stderr(b"0123456789");
        output.write_stderr(b"abc\n");
        assert_eq!(output.take().stderr().unwrap(), "(6 bytes left out)\n6789abc");
    }

    #[test]
    fn a_line_is_cut_with_its_fields_and_between_characters() {
        let line = |message: &str, value: &str, room: usize| {
            let fields = vec![("k".to_owned(), value.to_owned()), ("l".to_owned(), "v".to_owned())];
            cut(LogLine { level: LogLevel::Info, message: message.into(), fields }, room)
        };
        assert_eq!(line("1234567é", "v", 8).message, "1234567");
        assert_eq!(line("1234567é", "v", 8).fields, []);
        let one = 8 + LogLine::FIELD_BYTES;
        assert_eq!(line("12345", "abcdef", one).fields, [("k".to_owned(), "ab".to_owned())]);
        assert_eq!(line("1234", "a", one + LogLine::FIELD_BYTES).fields.len(), 2);
    }

    #[test]
    fn fields_without_text_are_not_free() {
        let empty = |n: usize| LogLine {
            level: LogLevel::Info,
            message: String::new(),
            fields: vec![(String::new(), String::new()); n],
        };
        let kept = cut(empty(100_000), 4_096);
        assert_eq!((kept.fields.len(), kept.fields.capacity()), (LogLine::MAX_FIELDS, LogLine::MAX_FIELDS));
        let few = cut(empty(100), 200).fields.len();
        assert!(few * LogLine::FIELD_BYTES <= 200, "{few} fields in 200 bytes");
    }

    #[test]
    fn secrets_are_in_nothing_that_is_kept() {
        let source = crate::plugin::SecretSource::Text("hunter2".into());
        let secrets = PluginSecrets::read(&[("a".to_owned(), source)].into()).unwrap();
        let limits = AttemptLimits { log_line_bytes: 16, stderr_bytes: 12, ..AttemptLimits::default() };
        let output = AttemptOutput::new("p", EventId::new(), limits, Arc::new(secrets));
        output.write_stdout(b"hunter2 hunter2 hunter2\n0123456789 hunter2\n");
        let fields = vec![("hunter2".to_owned(), "hunter2".to_owned())];
        output.log(LogLine { level: LogLevel::Info, message: "m".into(), fields });
        output.write_stderr(b"0123456789012 hunter2 89012");
        let said = output.take();
        let kept = format!("{:?} {:?}", said.log, said.stderr());
        for begun in ["hunter2", "hunte", "unter2", "ter2"] {
            assert!(!kept.contains(begun), "{kept}");
        }
        assert!(kept.contains("[secret a]"), "{kept}");
    }

    #[test]
    fn what_is_handed_over_is_counted_to_the_limit() {
        let output = output();
        assert_eq!(output.charge(100), Ok(()));
        assert_eq!(output.charge(1), Err(LimitBreach::HostCall { limit_bytes: 100 }));
    }
}
