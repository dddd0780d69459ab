//! Every setting by its name, and where its value goes.
//!
//! This list is the only one: names in the file, variables of the environment, hints for misspelled names and the test
//! that the commented file is complete all come from it.

use crate::event::{FailureClass, MAX_PAUSE_MS, RetryPatch};
use crate::plugin::{MAX_CONCURRENCY, WatchMethod};

use super::draft::{ConfigDraft, DataDirSetting};
use super::given::{ExpectedValue, GivenValue};

/// A setting.
pub(super) struct SettingKey {
    /// Its name, such as `server.listen`.
    pub(super) name: String,
    /// Checks a value and takes it.
    pub(super) set: Box<Set>,
}

type Set = dyn Fn(&mut ConfigDraft, GivenValue<'_>) -> Result<(), ExpectedValue>;

/// The longest time that may be given in milliseconds: a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// The classes of failure that are tried again, and so have a policy.
const RETRIED: [FailureClass; 5] =
    [FailureClass::Retry, FailureClass::Trap, FailureClass::Timeout, FailureClass::Limit, FailureClass::NoHandler];

impl SettingKey {
    fn new(
        name: impl Into<String>,
        set: impl Fn(&mut ConfigDraft, GivenValue<'_>) -> Result<(), ExpectedValue> + 'static,
    ) -> Self {
        Self { name: name.into(), set: Box::new(set) }
    }

    /// The variable of the environment that gives this setting.
    pub(super) fn variable(&self) -> String {
        let name = self.name.replace(['.', '-'], "_").to_ascii_uppercase();
        format!("EVENTSTREAM_{name}")
    }
}

/// Every setting but those of plugins, in the order of the commented file.
pub(super) fn all() -> Vec<SettingKey> {
    let mut keys = server();
    keys.extend(broker());
    keys.push(SettingKey::new("events.max_depth", |draft, given| {
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

fn server() -> Vec<SettingKey> {
    const MIB: usize = 1024 * 1024;
    vec![
        SettingKey::new("server.listen", |draft, given| given.address().map(|it| draft.server.listen = it)),
        SettingKey::new("server.max_body_bytes", |draft, given| {
            given.size(1_024..=1_024 * MIB).map(|it| draft.server.max_body_bytes = it)
        }),
        SettingKey::new("server.max_buffered_bytes", |draft, given| {
            given.size(16 * MIB..=1_024 * 1_024 * MIB).map(|it| draft.server.max_buffered_bytes = it)
        }),
        SettingKey::new("server.max_batch_events", |draft, given| {
            given.size(1..=100_000).map(|it| draft.server.limits.max_batch_events = it)
        }),
        SettingKey::new("server.max_json_depth", |draft, given| {
            given.size(2..=120).map(|it| draft.server.limits.max_json_depth = it)
        }),
        SettingKey::new("server.max_connections", |draft, given| {
            given.size(1..=1_000_000).map(|it| draft.server.max_connections = it)
        }),
        SettingKey::new("server.header_timeout_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.server.header_timeout_ms = it)
        }),
        SettingKey::new("server.body_timeout_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.server.body_timeout_ms = it)
        }),
        SettingKey::new("server.idle_timeout_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.server.idle_timeout_ms = it)
        }),
        SettingKey::new("server.drain_ms", |draft, given| given.whole(0..=DAY_MS).map(|it| draft.server.drain_ms = it)),
    ]
}

fn broker() -> Vec<SettingKey> {
    vec![
        SettingKey::new("broker.url", |draft, given| broker_url(given).map(|it| draft.broker_url = it)),
        SettingKey::new("broker.namespace", |draft, given| given.name(64).map(|it| draft.broker.namespace = it)),
        SettingKey::new("broker.allow_unsafe", |draft, given| given.truth().map(|it| draft.broker.allow_unsafe = it)),
        SettingKey::new("broker.max_waiting", |draft, given| {
            given.whole(1..=1_000_000_000).map(|it| draft.broker.max_waiting = it)
        }),
        SettingKey::new("broker.max_waiting_bytes", |draft, given| {
            given.size(1..=1 << 50).map(|it| draft.broker.max_waiting_bytes = it as u64)
        }),
        SettingKey::new("broker.max_payload_bytes", |draft, given| {
            given.size(1..=64 * 1024 * 1024).map(|it| draft.server.limits.max_payload_bytes = it)
        }),
    ]
}

fn consumer() -> Vec<SettingKey> {
    vec![
        SettingKey::new("consumer.name", |draft, given| match given.text() {
            Ok(name) if name.is_empty() => {
                draft.consumer_name = None;
                Ok(())
            }
            _ => given.name(64).map(|it| draft.consumer_name = Some(it)),
        }),
        SettingKey::new("consumer.concurrency", |draft, given| {
            given.size(0..=MAX_CONCURRENCY).map(|it| draft.concurrency = it)
        }),
        SettingKey::new("consumer.lease_ms", |draft, given| {
            given.whole(500..=DAY_MS).map(|it| draft.broker.lease_ms = it)
        }),
    ]
}

fn policy(section: String, patch: impl Fn(&mut ConfigDraft) -> &mut RetryPatch + Copy + 'static) -> Vec<SettingKey> {
    vec![
        SettingKey::new(format!("{section}.max_attempts"), move |draft, given| {
            given.whole(1..=u64::from(u32::MAX)).map(|it| patch(draft).max_attempts = u32::try_from(it).ok())
        }),
        SettingKey::new(format!("{section}.initial_ms"), move |draft, given| {
            given.whole(0..=MAX_PAUSE_MS).map(|it| patch(draft).initial_ms = Some(it))
        }),
        SettingKey::new(format!("{section}.factor"), move |draft, given| {
            given.factor().map(|it| patch(draft).factor = Some(it))
        }),
        SettingKey::new(format!("{section}.max_ms"), move |draft, given| {
            given.whole(0..=MAX_PAUSE_MS).map(|it| patch(draft).max_ms = Some(it))
        }),
    ]
}

fn others() -> Vec<SettingKey> {
    vec![
        SettingKey::new("retention.processed", |draft, given| {
            given.duration_ms().map(|it| draft.broker.retention.processed_ms = it)
        }),
        SettingKey::new("retention.processed_max", |draft, given| {
            given.whole(0..=1_000_000_000).map(|it| draft.broker.retention.processed_max = it)
        }),
        SettingKey::new("retention.processed_max_bytes", |draft, given| {
            given.size(0..=1 << 50).map(|it| draft.broker.retention.processed_max_bytes = it as u64)
        }),
        SettingKey::new("retention.failed", |_, given| given.one_of(&["kept"]).map(drop)),
        SettingKey::new("retention.idempotency", |draft, given| {
            given.duration_ms().map(|it| draft.broker.retention.idempotency_ms = it)
        }),
        SettingKey::new("plugins.dir", |draft, given| match given.text() {
            Ok(dir) if !dir.is_empty() => {
                draft.plugins_dir = dir.into();
                Ok(())
            }
            _ => Err(given.is_not("a directory")),
        }),
        SettingKey::new("plugins.watch", |draft, given| {
            let watch = given.one_of(&["notify", "poll"])?;
            draft.plugins_follow.notice = if watch == "poll" { WatchMethod::Poll } else { WatchMethod::Notify };
            Ok(())
        }),
        SettingKey::new("plugins.rescan_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.plugins_follow.rescan_ms = it)
        }),
        SettingKey::new("plugins.settle_ms", |draft, given| {
            given.whole(0..=60_000).map(|it| draft.plugins_follow.settle_ms = it)
        }),
        SettingKey::new("plugins.data_dir", |draft, given| {
            given.text().map(|dir| draft.plugins_data_dir = DataDirSetting::given(dir))
        }),
        SettingKey::new("plugins.cache_max_bytes", |draft, given| {
            given.size(0..=1 << 40).map(|it| draft.plugins_cache_max_bytes = it as u64)
        }),
        SettingKey::new("plugins.hold_new_capabilities", |draft, given| {
            given.truth().map(|it| draft.hold_new_capabilities = it)
        }),
        SettingKey::new("plugins.hold_taken_types", |draft, given| given.truth().map(|it| draft.hold_taken_types = it)),
        SettingKey::new("plugins.compile_memory_bytes", |draft, given| {
            given.size(64 * 1024 * 1024..=1 << 40).map(|it| draft.compile.memory_bytes = it as u64)
        }),
        SettingKey::new("plugins.compile_cpu_ms", |draft, given| {
            given.whole(1_000..=DAY_MS).map(|it| draft.compile.cpu_ms = it)
        }),
        SettingKey::new("plugins.compile_wall_ms", |draft, given| {
            given.whole(10..=DAY_MS).map(|it| draft.compile.wall_ms = it)
        }),
        SettingKey::new("auth.allow_anonymous", |draft, given| given.truth().map(|it| draft.allow_anonymous = it)),
        SettingKey::new("log.format", |draft, given| {
            let format = given.one_of(&["auto", "text", "json"])?;
            draft.log.format = format.parse().map_err(|()| given.is_not("a format"))?;
            Ok(())
        }),
        SettingKey::new("log.lines_per_second", |draft, given| {
            given.whole(0..=1_000_000).map(|it| draft.log.lines_per_second = u32::try_from(it).unwrap_or(u32::MAX))
        }),
        SettingKey::new("log.level", |draft, given| {
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

fn broker_url(given: GivenValue<'_>) -> Result<String, ExpectedValue> {
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
