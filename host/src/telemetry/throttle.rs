//! Bounds what the log costs: of one kind of line about one plugin only so many go through in a second.
//!
//! A kind is the place in the program that writes the line. Whatever fails for every event, or is said by a plugin at every
//! event, would otherwise fill the disk at the rate of the events. What is left out is counted, and told from time to time
//! with an example.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The field that names the plugin which a line is about.
const PLUGIN: &str = "plugin.id";
/// How many seconds' worth of lines may come at once.
const BURST_SECONDS: f64 = 10.0;

/// Lets lines through or not. Clones share what they count.
#[derive(Clone, Debug)]
pub(super) struct LogThrottle(Arc<ThrottleState>);

#[derive(Debug)]
struct ThrottleState {
    /// 0 for no limit.
    lines_per_second: u32,
    kinds: Mutex<HashMap<LineKind, TokenBucket>>,
    left_out: AtomicU64,
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
    pub(super) fn new(lines_per_second: u32) -> Self {
        Self(Arc::new(ThrottleState { lines_per_second, kinds: Mutex::default(), left_out: AtomicU64::new(0) }))
    }

    /// Lines that were left out since the start.
    pub(super) fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// What was left out since this was last asked. Kinds of which there were no lines for a while are forgotten.
    pub(super) fn take(&self, now: Instant) -> Vec<OmittedLines> {
        let most = self.most();
        let mut kinds = self.0.kinds.lock();
        let mut taken = Vec::new();
        kinds.retain(|kind, bucket| {
            if bucket.left_out > 0 {
                let (lines, example) = (std::mem::take(&mut bucket.left_out), std::mem::take(&mut bucket.example));
                taken.push(OmittedLines { lines, example, plugin: kind.plugin.clone() });
            }
            bucket.room_at(now, most) < most
        });
        taken
    }

    fn most(&self) -> f64 {
        f64::from(self.0.lines_per_second) * BURST_SECONDS
    }

    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let most = self.most();
        let kind = LineKind { place: event.metadata().callsite(), plugin: text_of(event, PLUGIN) };
        let mut kinds = self.0.kinds.lock();
        let bucket = kinds.entry(kind).or_insert(TokenBucket::full(most, now));
        if bucket.take(now, most) {
            return true;
        }
        self.0.left_out.fetch_add(1, Ordering::Relaxed);
        if bucket.left_out == 0 {
            bucket.example = text_of(event, "message");
        }
        bucket.left_out += 1;
        false
    }
}

impl<S: Subscriber> Layer<S> for LogThrottle {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        self.0.lines_per_second == 0 || self.admits(event, Instant::now())
    }
}

/// A token bucket: room for lines, which comes back with time.
#[derive(Debug)]
struct TokenBucket {
    room: f64,
    looked: Instant,
    left_out: u64,
    example: String,
}

impl TokenBucket {
    fn full(most: f64, now: Instant) -> Self {
        Self { room: most, looked: now, left_out: 0, example: String::new() }
    }

    /// The room for lines; all of it comes back within [`BURST_SECONDS`].
    fn room_at(&self, now: Instant, most: f64) -> f64 {
        let back = now.saturating_duration_since(self.looked).as_secs_f64() * most / BURST_SECONDS;
        (self.room + back).min(most)
    }

    fn take(&mut self, now: Instant, most: f64) -> bool {
        let room = self.room_at(now, most);
        let is_room = room >= 1.0;
        (self.room, self.looked) = (if is_room { room - 1.0 } else { room }, now);
        is_room
    }
}

/// A field of an event as text; empty if it has none of that name.
fn text_of(event: &Event<'_>, name: &'static str) -> String {
    let mut wanted = WantedTexts { name, text: String::new() };
    event.record(&mut wanted);
    wanted.text
}

struct WantedTexts {
    name: &'static str,
    text: String,
}

impl Visit for WantedTexts {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == self.name {
            self.text.push_str(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == self.name {
            // A text takes whatever is written to it.
            let _ = write!(self.text, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// The texts that go through.
    #[derive(Clone, Default)]
    struct SeenTexts(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for SeenTexts {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            self.0.lock().push(text_of(event, "message"));
        }
    }

    fn say(plugin: &str, n: u32) {
        tracing::info!({ plugin.id = %plugin }, "failed {n}");
    }

    #[test]
    fn of_each_kind_and_plugin_a_burst_goes_through_and_the_rest_is_counted_with_an_example() {
        let (throttle, seen) = (LogThrottle::new(1), SeenTexts::default());
        let subscriber = tracing_subscriber::registry().with(throttle.clone()).with(seen.clone());
        tracing::subscriber::with_default(subscriber, || {
            (0..30).for_each(|n| say("noisy", n));
            say("quiet", 0);
            tracing::info!("another kind");
        });
        let seen = seen.0.lock().clone();
        assert!(seen.len() >= 12 && seen.len() < 30, "{seen:?}");
        assert_eq!(seen[..10], (0..10).map(|n| format!("failed {n}")).collect::<Vec<_>>());
        assert_eq!(seen[seen.len() - 2..], ["failed 0", "another kind"]);
        let left_out = 32 - seen.len() as u64;
        assert_eq!(throttle.left_out(), left_out);
        let taken = throttle.take(Instant::now());
        let [OmittedLines { lines, example, plugin }] = &taken[..] else { panic!("one kind: {taken:?}") };
        assert_eq!((*lines, plugin.as_str()), (left_out, "noisy"));
        assert!(example.starts_with("failed 1"), "{example}");
        assert_eq!(throttle.take(Instant::now()), []);
        assert_eq!(throttle.left_out(), left_out);
    }

    #[test]
    fn room_comes_back_at_the_rate_and_no_further_than_the_burst() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut bucket = TokenBucket::full(20.0, start);
        let taken = |bucket: &mut TokenBucket, now| std::iter::from_fn(|| bucket.take(now, 20.0).then_some(())).count();
        assert_eq!(taken(&mut bucket, start), 20);
        assert_eq!(taken(&mut bucket, after(400)), 0);
        assert_eq!(taken(&mut bucket, after(500)), 1);
        assert_eq!(taken(&mut bucket, after(100_000)), 20);
    }

    #[test]
    fn kinds_that_are_silent_are_forgotten_and_those_that_are_not_are_kept() {
        let throttle = LogThrottle::new(1);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(throttle.clone()), || say("p", 0));
        throttle.take(Instant::now());
        assert_eq!(throttle.0.kinds.lock().len(), 1);
        throttle.take(Instant::now() + Duration::from_secs(20));
        assert_eq!(throttle.0.kinds.lock().len(), 0);
    }

    #[test]
    fn without_a_limit_nothing_is_left_out() {
        let (throttle, seen) = (LogThrottle::new(0), SeenTexts::default());
        let subscriber = tracing_subscriber::registry().with(throttle.clone()).with(seen.clone());
        tracing::subscriber::with_default(subscriber, || (0..1_000).for_each(|n| say("noisy", n)));
        assert_eq!((seen.0.lock().len(), throttle.left_out()), (1_000, 0));
    }
}
