//! The output of a guest in an attempt: log lines, standard output as lines, and the end of standard error.
//!
//! The kept output is bounded. All bytes that a guest passes to the host count, so a flood of output ends the attempt by
//! the limit of host-call data.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::event::{EventId, LogLevel, LogLine};
use crate::plugin::AttemptLimits;
use crate::plugin::sandbox::limits::LimitBreach;
use crate::plugin::settings::secrets::PluginSecrets;
use crate::printable::Printable;

/// The most bytes in one write.
const WRITE_BYTES: usize = 64 * 1_024;

/// Collects the output of one attempt. The guest's interfaces share it, and it outlives the instance.
#[derive(Debug)]
pub struct GuestOutput {
    plugin: String,
    event: Mutex<EventId>,
    limits: AttemptLimits,
    secrets: Arc<PluginSecrets>,
    captured: Mutex<CapturedOutput>,
}

/// The kept output.
#[derive(Debug, Default)]
pub struct CapturedOutput {
    /// Log lines, lines of standard output included.
    pub log: Vec<LogLine>,
    /// Number of lines beyond the limit.
    pub log_lines_dropped: u32,
    spent_bytes: u64,
    stdout_line: Vec<u8>,
    stderr: Vec<u8>,
    stderr_bytes_dropped: u64,
}

impl CapturedOutput {
    /// The end of standard error; `None` if nothing was written.
    pub fn stderr(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.stderr);
        match (text.trim(), self.stderr_bytes_dropped) {
            ("", _) => None,
            (text, 0) => Some(text.to_owned()),
            (text, dropped) => Some(format!("({dropped} bytes left out)\n{text}")),
        }
    }
}

impl GuestOutput {
    /// An empty output.
    pub fn new(plugin: &str, event: EventId, limits: AttemptLimits, secrets: Arc<PluginSecrets>) -> Self {
        Self { plugin: plugin.to_owned(), event: Mutex::new(event), limits, secrets, captured: Mutex::default() }
    }

    /// Starts again for an attempt at another event.
    pub(super) fn begin(&self, event: EventId) {
        *self.event.lock() = event;
        *self.captured.lock() = CapturedOutput::default();
    }

    /// Takes the output at the end of an attempt.
    pub fn take(&self) -> CapturedOutput {
        let mut captured = self.captured.lock();
        self.end_line(&mut captured);
        self.hide_in_stderr(&mut captured);
        keep_end(&mut captured, to_size(self.limits.stderr_bytes));
        std::mem::take(&mut *captured)
    }

    /// Counts bytes that the guest passed to the host.
    ///
    /// # Errors
    /// The limit of host-call data is exceeded, which ends the attempt.
    pub fn charge(&self, size_bytes: usize) -> Result<(), LimitBreach> {
        let mut captured = self.captured.lock();
        captured.spent_bytes = captured.spent_bytes.saturating_add(size_bytes as u64);
        if captured.spent_bytes > self.limits.host_call_bytes {
            return Err(LimitBreach::HostCall { limit_bytes: self.limits.host_call_bytes });
        }
        Ok(())
    }

    /// Keeps a line if there is room for one more.
    pub(super) fn log(&self, line: LogLine) {
        self.keep(&mut self.captured.lock(), line);
    }

    /// Writes to standard output. Each line becomes a log line of level info.
    pub(super) fn write_stdout(&self, bytes: &[u8]) {
        let mut captured = self.captured.lock();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Leaves room for the longest secret, so that none is cut before it is hidden.
            let room = to_size(self.limits.log_line_bytes).saturating_add(self.secrets.longest_bytes());
            let room = room.saturating_sub(captured.stdout_line.len());
            captured.stdout_line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_line(&mut captured);
            }
        }
    }

    /// Writes to standard error. The last bytes are kept, because they tell why a guest died.
    pub(super) fn write_stderr(&self, bytes: &[u8]) {
        let mut captured = self.captured.lock();
        let room = to_size(self.limits.stderr_bytes).saturating_add(self.secrets.longest_bytes());
        let kept = &bytes[bytes.len().saturating_sub(room)..];
        captured.stderr.extend_from_slice(kept);
        captured.stderr_bytes_dropped += (bytes.len() - kept.len()) as u64;
        // Trims only at twice the room, so that not every write moves the rest.
        if captured.stderr.len() >= room.saturating_mul(2) {
            keep_end(&mut captured, room);
        }
    }

    fn end_line(&self, captured: &mut CapturedOutput) {
        let bytes = std::mem::take(&mut captured.stdout_line);
        let message = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if !message.is_empty() {
            self.keep(captured, LogLine { level: LogLevel::Info, message, fields: Vec::new() });
        }
    }

    fn keep(&self, captured: &mut CapturedOutput, line: LogLine) {
        if captured.log.len() >= to_size(u64::from(self.limits.log_lines)) {
            captured.log_lines_dropped = captured.log_lines_dropped.saturating_add(1);
            return;
        }
        let room = to_size(self.limits.log_line_bytes);
        let line = cut(self.hide(cut(line, room.saturating_add(self.secrets.longest_bytes()))), room);
        self.show(&line);
        captured.log.push(line);
    }

    fn hide(&self, line: LogLine) -> LogLine {
        let hide = |text: String| self.secrets.hide_cut_end(&text);
        let fields = line.fields.into_iter().map(|(name, value)| (hide(name), hide(value))).collect();
        LogLine { level: line.level, message: hide(line.message), fields }
    }

    fn hide_in_stderr(&self, captured: &mut CapturedOutput) {
        if self.secrets.longest_bytes() == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&captured.stderr).into_owned();
        let is_whole = captured.stderr_bytes_dropped == 0;
        let hidden = if is_whole { self.secrets.hide(&text) } else { self.secrets.hide_cut_start(&text) };
        captured.stderr = hidden.into_bytes();
    }

    /// Writes a line to the log of the host, escaped so that a guest can neither forge lines nor control a terminal.
    fn show(&self, line: &LogLine) {
        let mut text = Printable(&line.message).to_string();
        for (name, value) in &line.fields {
            text.push_str(&format!(" {}={:?}", Printable(name), value));
        }
        let (plugin, event) = (&self.plugin, *self.event.lock());
        match line.level {
            LogLevel::Trace => tracing::trace!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
            LogLevel::Debug => tracing::debug!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
            LogLevel::Info => tracing::info!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
            LogLevel::Warn => tracing::warn!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
            LogLevel::Error => tracing::error!(target: "plugin", { plugin.id = %plugin, event.id = %event }, "{text}"),
        }
    }
}

fn to_size(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Drops the start of standard error, so that at most `room` bytes are left.
fn keep_end(captured: &mut CapturedOutput, room: usize) {
    let surplus = captured.stderr.len().saturating_sub(room);
    captured.stderr.drain(..surplus);
    captured.stderr_bytes_dropped += surplus as u64;
}

/// Cuts a line to `room` bytes, message first, and to the number of fields that a line may have.
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
    // The lines live until the attempt is settled, so they must not keep the memory of what was cut.
    line.fields.shrink_to_fit();
    line.message.shrink_to_fit();
    line
}

/// Standard output or standard error of a guest, a stream that is always ready.
#[derive(Clone)]
pub(super) struct GuestStream {
    output: Arc<GuestOutput>,
    write: fn(&GuestOutput, &[u8]),
}

impl GuestStream {
    /// Standard output.
    pub(super) fn out(output: Arc<GuestOutput>) -> Self {
        Self { output, write: GuestOutput::write_stdout }
    }

    /// Standard error.
    pub(super) fn err(output: Arc<GuestOutput>) -> Self {
        Self { output, write: GuestOutput::write_stderr }
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl OutputStream for GuestStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.charge(bytes.len()).map_err(|breach| StreamError::Trap(breach.into()))?;
        (self.write)(&self.output, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

/// The same stream for versions of WASI that use host streams.
impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.output.charge(bytes.len()).map_err(std::io::Error::other)?;
        (self.write)(&self.output, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> GuestOutput {
        let limits = AttemptLimits {
            log_lines: 2,
            log_line_bytes: 8,
            stderr_bytes: 8,
            host_call_bytes: 100,
            ..AttemptLimits::default()
        };
        GuestOutput::new("p", EventId::new(), limits, Arc::default())
    }

    fn messages(captured: &CapturedOutput) -> Vec<&str> {
        captured.log.iter().map(|line| line.message.as_str()).collect()
    }

    #[test]
    fn standard_output_is_kept_as_lines_within_the_limits() {
        let output = output();
        output.write_stdout(b"one\n\ntw");
        output.write_stdout(b"o is a long one\nthree\n");
        output.write_stdout(b"four");
        let captured = output.take();
        assert_eq!(messages(&captured), ["one", "two is a"]);
        assert_eq!(captured.log_lines_dropped, 2);
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
    fn a_line_is_cut_between_characters_with_its_fields() {
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
    fn fields_without_text_count_too() {
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
    fn no_kept_output_contains_secrets() {
        let source = crate::plugin::SecretSource::Text("hunter2".into());
        let secrets = PluginSecrets::read(&[("a".to_owned(), source)].into()).unwrap();
        let limits = AttemptLimits { log_line_bytes: 16, stderr_bytes: 12, ..AttemptLimits::default() };
        let output = GuestOutput::new("p", EventId::new(), limits, Arc::new(secrets));
        output.write_stdout(b"hunter2 hunter2 hunter2\n0123456789 hunter2\n");
        let fields = vec![("hunter2".to_owned(), "hunter2".to_owned())];
        output.log(LogLine { level: LogLevel::Info, message: "m".into(), fields });
        output.write_stderr(b"0123456789012 hunter2 89012");
        let captured = output.take();
        let kept = format!("{:?} {:?}", captured.log, captured.stderr());
        for begun in ["hunter2", "hunte", "unter2", "ter2"] {
            assert!(!kept.contains(begun), "{kept}");
        }
        assert!(kept.contains("[secret a]"), "{kept}");
    }

    #[test]
    fn bytes_passed_to_the_host_are_counted_up_to_the_limit() {
        let output = output();
        assert_eq!(output.charge(100), Ok(()));
        assert_eq!(output.charge(1), Err(LimitBreach::HostCall { limit_bytes: 100 }));
    }
}
