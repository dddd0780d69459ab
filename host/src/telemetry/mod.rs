//! The program's log: lines on standard error, as text for people or as JSON for machines.
//!
//! Each event is one line. Control characters and line separators become escapes. So text from outside, such as a plugin's
//! message, cannot forge a line or control a terminal.
//!
//! Logging never blocks: a thread writes the lines, and if the reader of standard error is too slow, lines are lost and
//! counted. [`throttle`] limits the rate of lines of one kind.

mod throttle;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::printable::{Printable, PrintableJson};
use crate::secret::RedactedText;

use throttle::LogThrottle;

/// The most lines that wait to be written. Further ones are lost.
const MAX_WAITING_LINES: usize = 8_192;
/// The time between two reports of lines that were not written.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The settings of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The format of the lines.
    pub format: LogFormat,
    /// The lines that are written.
    pub level: LevelFilter,
    /// The most lines of one kind about one plugin in a second, averaged over ten seconds; 0 for no limit.
    pub lines_per_second: u32,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: LevelFilter::default(), lines_per_second: 100 }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text if standard error is a terminal, else JSON.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// A level, or levels by module, such as `info` or `info,eventstream::api=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelFilter(String);

impl Default for LevelFilter {
    fn default() -> Self {
        Self("info".into())
    }
}

impl FromStr for LevelFilter {
    type Err = InvalidLevel;

    /// Is stricter than [`EnvFilter`], which takes a misspelled level for the name of a module.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_level = |level: &str| level == "off" || level.parse::<Level>().is_ok();
        let is_directive = |directive: &str| match directive.split_once('=') {
            Some((module, level)) => {
                let fits = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
                !module.is_empty() && module.chars().all(fits) && is_level(level)
            }
            None => is_level(directive),
        };
        if text.split(',').all(is_directive) && EnvFilter::try_new(text).is_ok() {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidLevel)
    }
}

impl fmt::Display for LevelFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a level is error, warn, info, debug, trace or off, or a list of them by module: info,eventstream::api=debug")]
pub struct InvalidLevel;

/// The running log. Dropping it writes the lines that wait, for a second at most.
#[derive(Debug)]
pub struct LogGuard {
    unwritten_lines: UnwrittenLines,
    _writer: WorkerGuard,
}

/// Counts the lines that were not written. Clones share the counters.
#[derive(Clone, Debug)]
pub struct UnwrittenLines {
    throttle: LogThrottle,
    /// Lines that found no room to wait; `None` if there is no log.
    lost: Option<ErrorCounter>,
    /// Lines that could not be written.
    failed: Arc<AtomicU64>,
}

/// The counters of a program without a log.
impl Default for UnwrittenLines {
    fn default() -> Self {
        Self { throttle: LogThrottle::new(0), lost: None, failed: Arc::default() }
    }
}

impl UnwrittenLines {
    /// The lines that were not written since the start: those over the limit, those lost, and those that failed.
    pub fn total(&self) -> u64 {
        self.throttle.omitted() + self.lost()
    }

    /// Logs now and then how many lines were not written, until `stop` is cancelled.
    pub async fn report(self, stop: CancellationToken) {
        let mut lost_before = 0;
        while stop.run_until_cancelled(tokio::time::sleep(REPORT_INTERVAL)).await.is_some() {
            self.report_once(&mut lost_before);
        }
        self.report_once(&mut lost_before);
    }

    fn report_once(&self, lost_before: &mut u64) {
        for omitted in self.throttle.take_omitted(Instant::now()) {
            let plugin = Some(omitted.plugin.as_str()).filter(|plugin| !plugin.is_empty());
            let lines = omitted.lines;
            tracing::warn!(
                plugin.id = plugin,
                lines,
                "{lines} lines were left out of the log by log.lines_per_second; the first was: {}",
                omitted.example
            );
        }
        let lost = self.lost();
        if lost > *lost_before {
            let lines = lost - *lost_before;
            tracing::warn!(
                lines,
                "{lines} lines of the log are lost: the reader of standard error is too slow or has gone away"
            );
            *lost_before = lost;
        }
    }

    fn lost(&self) -> u64 {
        let not_taken = self.lost.as_ref().map_or(0, |lost| lost.dropped_lines() as u64);
        not_taken + self.failed.load(Ordering::Relaxed)
    }
}

impl LogGuard {
    /// The counters of lines that were not written.
    pub fn unwritten_lines(&self) -> &UnwrittenLines {
        &self.unwritten_lines
    }
}

/// Starts the log, which also gets panics. Call it once, from the program and not from the library.
///
/// # Errors
/// The log has been started before.
pub fn init(options: &LogOptions) -> anyhow::Result<LogGuard> {
    let json = match options.format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let failed = Arc::default();
    let (sink, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_WAITING_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(CountingWriter { inner: io::stderr(), failed: Arc::clone(&failed) });
    let throttle = LogThrottle::new(options.lines_per_second);
    let unwritten_lines = UnwrittenLines { throttle: throttle.clone(), lost: Some(sink.error_counter()), failed };
    let filter = EnvFilter::try_new(&options.level.0)?;
    let registry = tracing_subscriber::registry().with(filter).with(throttle);
    let lines = tracing_subscriber::fmt::layer().with_writer(move || LineWriter(sink.clone())).with_ansi(false);
    if json {
        registry.with(lines.json().flatten_event(true)).try_init()?;
    } else {
        registry.with(lines).try_init()?;
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        let thread = std::thread::current();
        tracing::error!(panic.place = place, thread = thread.name(), "a part of the program panicked: {message}");
    }));
    Ok(LogGuard { unwritten_lines, _writer: writer })
}

/// A writer that gets one whole line a call. It counts the lines that cannot be written, since its thread ignores errors.
struct CountingWriter<W> {
    inner: W,
    failed: Arc<AtomicU64>,
}

impl<W: Write> Write for CountingWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.inner.write_all(line).is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A writer that gets one whole line a call, and passes it on in one call, escaped and without passwords.
struct LineWriter<W>(W);

impl<W: Write> Write for LineWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        // The text may quote an address with a password.
        let shown = RedactedText(text);
        // A line that is not JSON begins with its time.
        let line_out = if text.starts_with('{') {
            format!("{}\n", PrintableJson(shown))
        } else {
            format!("{}\n", Printable(shown))
        };
        self.0.write_all(line_out.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct SharedWriter(Arc<Mutex<Vec<u8>>>);

    impl Write for SharedWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, value: &str) -> String {
        let sink = SharedWriter::default();
        let writer = sink.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || LineWriter(writer.clone())).with_ansi(false);
        let log = || tracing::info!(event.kind = value, "received {value}");
        if json {
            tracing::subscriber::with_default(lines.json().flatten_event(true).finish(), log);
        } else {
            tracing::subscriber::with_default(lines.finish(), log);
        }
        let bytes = sink.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn whatever_is_logged_is_one_line_without_control_characters() {
        let hostile = "a\nERROR forged\r\u{1b}[31m\u{85}\u{2028}\u{202e}\u{200f}end\0";
        for json in [false, true] {
            let line = logged(json, hostile);
            let text = line.strip_suffix('\n').unwrap();
            assert!(
                !text.contains(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{202e}' || c == '\u{200f}'),
                "{text:?}"
            );
            assert!(text.contains("forged") && text.contains("end"), "{text:?}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let unwritten = UnwrittenLines::default();
        let room: &mut [u8] = &mut [0; 8];
        let mut writer = CountingWriter { inner: room, failed: unwritten.failed.clone() };
        for line in ["a line\n", "another one\n", "a third\n"] {
            writer.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(unwritten.total(), 2);
    }

    #[test]
    fn a_json_line_gives_back_what_was_logged() {
        let hostile = "a\n\u{85}\u{2028}\u{1b}\"\\";
        let line: serde_json::Value = serde_json::from_str(&logged(true, hostile)).unwrap();
        assert_eq!(line["event.kind"], hostile);
    }

    #[test]
    fn an_address_is_logged_without_its_password() {
        for json in [false, true] {
            let line = logged(json, "no answer at redis://me:hun/ter2@host:1");
            assert!(!line.contains("hun") && !line.contains("ter2") && line.contains("redis://***@host:1"), "{line}");
        }
    }

    #[test]
    fn levels_are_checked_and_not_taken_for_modules() {
        for good in ["info", "off", "warn,eventstream=trace", "INFO", "info,eventstream::api=debug,hyper=off"] {
            assert!(good.parse::<LevelFilter>().is_ok(), "{good:?} is a level");
        }
        for bad in ["", "inof", "info,", "eventstream=loud", "=info", "info,a b=warn", "[span]=info"] {
            assert_eq!(bad.parse::<LevelFilter>(), Err(InvalidLevel), "{bad:?} is no level");
        }
    }
}
