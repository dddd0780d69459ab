//! Every setting by its name, and where its value goes.
//!
//! This list is the only one: names in the file, variables of the environment, hints for misspelled names and the test
//! that the commented file is complete all come from it.

use crate::event::{Class, MAX_PAUSE_MS, PolicyPatch};
use crate::plugin::{MAX_CONCURRENCY, Notice};

use super::draft::{DataDir, Draft};
use super::given::{Expected, Given};

/// A setting.
pub(super) struct Key {
    /// Its name, such as `server.listen`.
    pub(super) name: String,
    /// Checks a value and takes it.
    pub(super) set: Box<Set>,
}

type Set = dyn Fn(&mut Draft, Given<'_>) -> Result<(), Expected>;

/// The longest time that may be given in milliseconds: a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// The classes of failure that are tried again, and so have a policy.
const RETRIED: [Class; 5] = [Class::Retry, Class::Trap, Class::Timeout, Class::Limit, Class::NoHandler];

impl Key {
    fn new(name: impl Into<String>, set: impl Fn(&mut Draft, Given<'_>) -> Result<(), Expected> + 'static) -> Self {
        Self { name: name.into(), set: Box::new(set) }
    }

    /// The variable of the environment that gives this setting.
    pub(super) fn variable(&self) -> String {
        let name = self.name.replace(['.', '-'], "_").to_ascii_uppercase();
        format!("EVENTSTREAM_{name}")
    }
}

/// Every setting but those of plugins, in the order of the commented file.
pub(super) fn all() -> Vec<Key> {
    let mut keys = server();
    keys.extend(broker());
    keys.push(Key::new("events.max_depth", |draft, given| {
        given.whole(1..=1_000_000).map(|it| draft.max_depth = u32::try_from(it).unwrap_or(u32::MAX))
    }));
    keys.extend(consumer());
    keys.extend(policy("retry".into(), |draft| &mut draft.retry));
    for class in RETRIED {
        keys.extend(policy(format!("retry.{class}"), move |draft| draft.retry_by_class.entry(class).or_default()));
    }
    keys.extend(others());
    keys
}

fn server() -> Vec<Key> {
    const MIB: usize = 1024 * 1024;
    vec![
        Key::new("server.listen", |draft, given| given.address().map(|it| draft.server.listen = it)),
        Key::new("server.max_body_bytes", |draft, given| {
            given.size(1_024..=1_024 * MIB).map(|it| draft.server.max_body_bytes = it)
        }),
        Key::new("server.max_buffered_bytes", |draft, given| {
            given.size(16 * MIB..=1_024 * 1_024 * MIB).map(|it| draft.server.max_buffered_bytes = it)
        }),
        Key::new("server.max_batch_events", |draft, given| {
            given.size(1..=100_000).map(|it| draft.server.limits.max_batch_events = it)
        }),
        Key::new("server.max_json_depth", |draft, given| {
            given.size(2..=120).map(|it| draft.server.limits.max_json_depth = it)
        }),
        Key::new("server.max_connections", |draft, given| {
            given.size(1..=1_000_000).map(|it| draft.server.max_connections = it)
        }),
        Key::new("server.header_timeout_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.server.header_timeout_ms = it)
        }),
        Key::new("server.body_timeout_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.server.body_timeout_ms = it)
        }),
        Key::new("server.idle_timeout_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.server.idle_timeout_ms = it)
        }),
        Key::new("server.drain_ms", |draft, given| given.whole(0..=DAY_MS).map(|it| draft.server.drain_ms = it)),
    ]
}

fn broker() -> Vec<Key> {
    vec![
        Key::new("broker.url", |draft, given| broker_url(given).map(|it| draft.broker_url = it)),
        Key::new("broker.namespace", |draft, given| given.name(64).map(|it| draft.broker.namespace = it)),
        Key::new("broker.allow_unsafe", |draft, given| given.truth().map(|it| draft.broker.allow_unsafe = it)),
        Key::new("broker.max_waiting", |draft, given| {
            given.whole(1..=1_000_000_000).map(|it| draft.broker.max_waiting = it)
        }),
        Key::new("broker.max_waiting_bytes", |draft, given| {
            given.size(1..=1 << 50).map(|it| draft.broker.max_waiting_bytes = it as u64)
        }),
        Key::new("broker.max_payload_bytes", |draft, given| {
            given.size(1..=64 * 1024 * 1024).map(|it| draft.server.limits.max_payload_bytes = it)
        }),
    ]
}

fn consumer() -> Vec<Key> {
    vec![
        Key::new("consumer.name", |draft, given| match given.text() {
            Ok(name) if name.is_empty() => {
                draft.consumer_name = None;
                Ok(())
            }
            _ => given.name(64).map(|it| draft.consumer_name = Some(it)),
        }),
        Key::new("consumer.concurrency", |draft, given| {
            given.size(0..=MAX_CONCURRENCY).map(|it| draft.concurrency = it)
        }),
        Key::new("consumer.lease_ms", |draft, given| given.whole(500..=DAY_MS).map(|it| draft.broker.lease_ms = it)),
    ]
}

fn policy(section: String, patch: impl Fn(&mut Draft) -> &mut PolicyPatch + Copy + 'static) -> Vec<Key> {
    vec![
        Key::new(format!("{section}.max_attempts"), move |draft, given| {
            given.whole(1..=u64::from(u32::MAX)).map(|it| patch(draft).max_attempts = u32::try_from(it).ok())
        }),
        Key::new(format!("{section}.initial_ms"), move |draft, given| {
            given.whole(0..=MAX_PAUSE_MS).map(|it| patch(draft).initial_ms = Some(it))
        }),
        Key::new(format!("{section}.factor"), move |draft, given| {
            given.factor().map(|it| patch(draft).factor = Some(it))
        }),
        Key::new(format!("{section}.max_ms"), move |draft, given| {
            given.whole(0..=MAX_PAUSE_MS).map(|it| patch(draft).max_ms = Some(it))
        }),
    ]
}

fn others() -> Vec<Key> {
    vec![
        Key::new("retention.processed", |draft, given| {
            given.duration_ms().map(|it| draft.broker.retention.processed_ms = it)
        }),
        Key::new("retention.processed_max", |draft, given| {
            given.whole(0..=1_000_000_000).map(|it| draft.broker.retention.processed_max = it)
        }),
        Key::new("retention.processed_max_bytes", |draft, given| {
            given.size(0..=1 << 50).map(|it| draft.broker.retention.processed_max_bytes = it as u64)
        }),
        Key::new("retention.failed", |_, given| given.one_of(&["kept"]).map(drop)),
        Key::new("retention.idempotency", |draft, given| {
            given.duration_ms().map(|it| draft.broker.retention.idempotency_ms = it)
        }),
        Key::new("plugins.dir", |draft, given| match given.text() {
            Ok(dir) if !dir.is_empty() => {
                draft.plugins_dir = dir.into();
                Ok(())
            }
            _ => Err(given.is_not("a directory")),
        }),
        Key::new("plugins.watch", |draft, given| {
            let watch = given.one_of(&["notify", "poll"])?;
            draft.plugins_follow.notice = if watch == "poll" { Notice::Poll } else { Notice::Notify };
            Ok(())
        }),
        Key::new("plugins.rescan_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.plugins_follow.rescan_ms = it)
        }),
        Key::new("plugins.settle_ms", |draft, given| {
            given.whole(0..=60_000).map(|it| draft.plugins_follow.settle_ms = it)
        }),
        Key::new("plugins.data_dir", |draft, given| {
            given.text().map(|dir| draft.plugins_data_dir = DataDir::given(dir))
        }),
        Key::new("plugins.cache_max_bytes", |draft, given| {
            given.size(0..=1 << 40).map(|it| draft.plugins_cache_max_bytes = it as u64)
        }),
        Key::new("plugins.hold_new_capabilities", |draft, given| {
            given.truth().map(|it| draft.hold_new_capabilities = it)
        }),
        Key::new("plugins.hold_taken_types", |draft, given| given.truth().map(|it| draft.hold_taken_types = it)),
        Key::new("plugins.compile_memory_bytes", |draft, given| {
            given.size(64 * 1024 * 1024..=1 << 40).map(|it| draft.compile.memory_bytes = it as u64)
        }),
        Key::new("plugins.compile_cpu_ms", |draft, given| {
            given.whole(1_000..=DAY_MS).map(|it| draft.compile.cpu_ms = it)
        }),
        Key::new("plugins.compile_wall_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.compile.wall_ms = it)
        }),
        Key::new("auth.allow_anonymous", |draft, given| given.truth().map(|it| draft.allow_anonymous = it)),
        Key::new("log.format", |draft, given| {
            let format = given.one_of(&["auto", "text", "json"])?;
            draft.log.format = format.parse().map_err(|()| given.is_not("a format"))?;
            Ok(())
        }),
        Key::new("log.lines_per_second", |draft, given| {
            given.whole(0..=1_000_000).map(|it| draft.log.lines_per_second = u32::try_from(it).unwrap_or(u32::MAX))
        }),
        Key::new("log.level", |draft, given| {
            let level = given.text().ok().and_then(|level| level.parse().ok());
            draft.log.level = level.ok_or_else(|| {
                given.is_not(
                    "a level (error, warn, info, debug, trace), or levels by module: info,eventstream::api=debug",
                )
            })?;
            Ok(())
        }),
    ]
}

fn broker_url(given: Given<'_>) -> Result<String, Expected> {
    let url = given.text().map_err(|_| "the address of a broker is a text in quotes".to_owned())?;
    // The address may hold a password, so only its scheme is repeated.
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "embedded" if url.starts_with("embedded://") => {
            Err("the embedded broker is given as embedded:DIRECTORY, without //: embedded:./data".into())
        }
        "embedded" if url == "embedded:" => Err("the embedded broker is given as embedded:DIRECTORY".into()),
        "redis" | "embedded" => Ok(url),
        "rediss" | "redis-sentinel" | "redis-cluster" => {
            Err(format!("{scheme}:// is not part of this version; use redis://HOST:PORT"))
        }
        _ => Err("a broker is given as embedded:DIRECTORY or redis://HOST:PORT".into()),
    }
}
