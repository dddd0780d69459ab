//! Limits the log lines of one kind about one plugin in a second.
//!
//! A kind is the place in the program that writes the line. Without a limit, a fault or a plugin that logs at every event
//! would fill the disk. Lines over the limit are counted, and reported from time to time with an example.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The field that names the plugin of a line.
const PLUGIN_FIELD: &str = "plugin.id";
/// The time whose lines may be written at once.
const BURST: Duration = Duration::from_secs(10);

/// A layer that drops lines over the limit. Clones share their state.
#[derive(Clone, Debug)]
pub(super) struct LogThrottle(Arc<ThrottleState>);

#[derive(Debug)]
struct ThrottleState {
    /// 0 for no limit.
    lines_per_second: u32,
    kinds: Mutex<HashMap<LineKind, TokenBucket>>,
    omitted: AtomicU64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LineKind {
    place: Identifier,
    plugin: String,
}

/// Lines of one kind that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OmittedLines {
    pub(super) lines: u64,
    /// The first of them.
    pub(super) example: String,
    /// The plugin that they are about; empty for none.
    pub(super) plugin: String,
}

impl LogThrottle {
    /// A throttle for this many lines of a kind in a second; 0 for no limit.
    pub(super) fn new(lines_per_second: u32) -> Self {
        Self(Arc::new(ThrottleState { lines_per_second, kinds: Mutex::default(), omitted: AtomicU64::new(0) }))
    }

    /// The lines left out since the start.
    pub(super) fn omitted(&self) -> u64 {
        self.0.omitted.load(Ordering::Relaxed)
    }

    /// The lines left out since the last call, by kind. Forgets kinds that have been silent until their bucket is full again.
    pub(super) fn take_omitted(&self, now: Instant) -> Vec<OmittedLines> {
        let mut kinds = self.0.kinds.lock();
        let mut taken = Vec::new();
        kinds.retain(|kind, bucket| {
            if bucket.omitted > 0 {
                let (lines, example) = (std::mem::take(&mut bucket.omitted), std::mem::take(&mut bucket.example));
                taken.push(OmittedLines { lines, example, plugin: kind.plugin.clone() });
            }
            bucket.full_at > now
        });
        taken
    }

    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let kind = LineKind { place: event.metadata().callsite(), plugin: text_of(event, PLUGIN_FIELD) };
        let mut kinds = self.0.kinds.lock();
        let bucket = kinds.entry(kind).or_insert(TokenBucket::full(now));
        if bucket.take_token(now, self.0.lines_per_second) {
            return true;
        }
        self.0.omitted.fetch_add(1, Ordering::Relaxed);
        if bucket.omitted == 0 {
            bucket.example = text_of(event, "message");
        }
        bucket.omitted += 1;
        false
    }
}

impl<S: Subscriber> Layer<S> for LogThrottle {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        self.0.lines_per_second == 0 || self.admits(event, Instant::now())
    }
}

/// A token bucket for one kind of line.
#[derive(Debug)]
struct TokenBucket {
    /// When the bucket is full again. It is empty if that is [`BURST`] away.
    full_at: Instant,
    omitted: u64,
    example: String,
}

impl TokenBucket {
    fn full(now: Instant) -> Self {
        Self { full_at: now, omitted: 0, example: String::new() }
    }

    fn take_token(&mut self, now: Instant, per_second: u32) -> bool {
        let full_at = self.full_at.max(now) + Duration::from_secs(1) / per_second;
        let has_token = full_at <= now + BURST;
        if has_token {
            self.full_at = full_at;
        }
        has_token
    }
}

/// A field of an event as text; empty if the event has no such field.
fn text_of(event: &Event<'_>, name: &'static str) -> String {
    let mut visitor = FieldText { name, text: String::new() };
    event.record(&mut visitor);
    visitor.text
}

struct FieldText {
    name: &'static str,
    text: String,
}

impl Visit for FieldText {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == self.name {
            self.text.push_str(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == self.name {
            // Writing to a `String` never fails.
            let _ = write!(self.text, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Records the texts of the lines that pass.
    #[derive(Clone, Default)]
    struct SeenTexts(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for SeenTexts {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            self.0.lock().push(text_of(event, "message"));
        }
    }

    fn log_line(plugin: &str, n: u32) {
        tracing::info!({ plugin.id = %plugin }, "failed {n}");
    }

    #[test]
    fn of_each_kind_and_plugin_a_burst_passes_and_the_rest_is_counted_with_an_example() {
        let (throttle, seen) = (LogThrottle::new(1), SeenTexts::default());
        let subscriber = tracing_subscriber::registry().with(throttle.clone()).with(seen.clone());
        tracing::subscriber::with_default(subscriber, || {
            (0..30).for_each(|n| log_line("noisy", n));
            log_line("quiet", 0);
            tracing::info!("another kind");
        });
        let seen = seen.0.lock().clone();
        assert!(seen.len() >= 12 && seen.len() < 30, "{seen:?}");
        assert_eq!(seen[..10], (0..10).map(|n| format!("failed {n}")).collect::<Vec<_>>());
        assert_eq!(seen[seen.len() - 2..], ["failed 0", "another kind"]);
        let omitted = 32 - seen.len() as u64;
        assert_eq!(throttle.omitted(), omitted);
        let taken = throttle.take_omitted(Instant::now());
        let [OmittedLines { lines, example, plugin }] = &taken[..] else { panic!("one kind: {taken:?}") };
        assert_eq!((*lines, plugin.as_str()), (omitted, "noisy"));
        assert!(example.starts_with("failed 1"), "{example}");
        assert_eq!(throttle.take_omitted(Instant::now()), []);
        assert_eq!(throttle.omitted(), omitted);
    }

    #[test]
    fn tokens_come_back_at_the_rate_and_no_more_than_the_burst() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut bucket = TokenBucket::full(start);
        let taken =
            |bucket: &mut TokenBucket, now| std::iter::from_fn(|| bucket.take_token(now, 2).then_some(())).count();
        assert_eq!(taken(&mut bucket, start), 20);
        assert_eq!(taken(&mut bucket, after(400)), 0);
        assert_eq!(taken(&mut bucket, after(500)), 1);
        assert_eq!(taken(&mut bucket, after(100_000)), 20);
    }

    #[test]
    fn kinds_that_are_silent_are_forgotten_and_others_are_kept() {
        let throttle = LogThrottle::new(1);
        let subscriber = tracing_subscriber::registry().with(throttle.clone());
        tracing::subscriber::with_default(subscriber, || log_line("p", 0));
        throttle.take_omitted(Instant::now());
        assert_eq!(throttle.0.kinds.lock().len(), 1);
        throttle.take_omitted(Instant::now() + Duration::from_secs(20));
        assert_eq!(throttle.0.kinds.lock().len(), 0);
    }

    #[test]
    fn without_a_limit_every_line_passes() {
        let (throttle, seen) = (LogThrottle::new(0), SeenTexts::default());
        let subscriber = tracing_subscriber::registry().with(throttle.clone()).with(seen.clone());
        tracing::subscriber::with_default(subscriber, || (0..1_000).for_each(|n| log_line("noisy", n)));
        assert_eq!((seen.0.lock().len(), throttle.omitted()), (1_000, 0));
    }
}
