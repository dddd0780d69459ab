//! The list of the settings: their names, and where their values go.
//!
//! The keys of single plugins, `plugins.limits` and `plugins.resolve` are listed in `plugin::settings`. The environment variables, the hints for misspelled names, and the test that the commented file
//! is complete all use this one.

use crate::event::{FailureClass, MAX_PAUSE_MS, RetryPatch};
use crate::plugin::{MAX_CONCURRENCY, WatchMethod};

use super::draft::{ConfigDraft, DataDirSetting};
use super::value::{SettingValue, ValueMismatch};

/// A setting.
pub(super) struct SettingKey {
    /// Its name, such as `server.listen`.
    pub(super) name: String,
    /// Checks a value and stores it in the draft.
    pub(super) set: Box<Set>,
}

type Set = dyn Fn(&mut ConfigDraft, SettingValue<'_>) -> Result<(), ValueMismatch>;

/// The longest time that a setting in milliseconds allows: a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// The failure classes that have a retry policy.
const RETRIED_CLASSES: [FailureClass; 5] =
    [FailureClass::Retry, FailureClass::Trap, FailureClass::Timeout, FailureClass::Limit, FailureClass::NoHandler];

impl SettingKey {
    fn new(
        name: impl Into<String>,
        set: impl Fn(&mut ConfigDraft, SettingValue<'_>) -> Result<(), ValueMismatch> + 'static,
    ) -> Self {
        Self { name: name.into(), set: Box::new(set) }
    }

    /// The environment variable of this setting.
    pub(super) fn variable(&self) -> String {
        let name = self.name.replace(['.', '-'], "_").to_ascii_uppercase();
        format!("EVENTSTREAM_{name}")
    }
}

/// Lists every setting but those of single plugins, in the order of the commented file.
pub(super) fn all() -> Vec<SettingKey> {
    let mut keys = server_keys();
    keys.extend(broker_keys());
    keys.push(SettingKey::new("events.max_depth", |draft, value| {
        value.whole_number(1..=1_000_000).map(|it| draft.max_depth = u32::try_from(it).unwrap_or(u32::MAX))
    }));
    keys.extend(consumer_keys());
    keys.extend(retry_keys("retry".into(), |draft| &mut draft.retry));
    for class in RETRIED_CLASSES {
        keys.extend(retry_keys(format!("retry.{class}"), move |draft| draft.retry_by_class.entry(class).or_default()));
    }
    keys.extend(retention_plugin_and_log_keys());
    keys
}

fn server_keys() -> Vec<SettingKey> {
    const MIB: usize = 1024 * 1024;
    vec![
        SettingKey::new("server.listen", |draft, value| value.address().map(|it| draft.server.listen = it)),
        SettingKey::new("server.max_body_bytes", |draft, value| {
            value.size(1_024..=1_024 * MIB).map(|it| draft.server.max_body_bytes = it)
        }),
        SettingKey::new("server.max_buffered_bytes", |draft, value| {
            value.size(16 * MIB..=1_024 * 1_024 * MIB).map(|it| draft.server.max_buffered_bytes = it)
        }),
        SettingKey::new("server.max_batch_events", |draft, value| {
            value.size(1..=100_000).map(|it| draft.server.limits.max_batch_events = it)
        }),
        SettingKey::new("server.max_json_depth", |draft, value| {
            value.size(2..=120).map(|it| draft.server.limits.max_json_depth = it)
        }),
        SettingKey::new("server.max_connections", |draft, value| {
            value.size(1..=1_000_000).map(|it| draft.server.max_connections = it)
        }),
        SettingKey::new("server.header_timeout_ms", |draft, value| {
            value.whole_number(10..=DAY_MS).map(|it| draft.server.header_timeout_ms = it)
        }),
        SettingKey::new("server.body_timeout_ms", |draft, value| {
            value.whole_number(10..=DAY_MS).map(|it| draft.server.body_timeout_ms = it)
        }),
        SettingKey::new("server.idle_timeout_ms", |draft, value| {
            value.whole_number(10..=DAY_MS).map(|it| draft.server.idle_timeout_ms = it)
        }),
        SettingKey::new("server.drain_ms", |draft, value| {
            value.whole_number(0..=DAY_MS).map(|it| draft.server.drain_ms = it)
        }),
    ]
}

fn broker_keys() -> Vec<SettingKey> {
    vec![
        SettingKey::new("broker.url", |draft, value| parse_broker_url(value).map(|it| draft.broker_url = it)),
        SettingKey::new("broker.namespace", |draft, value| value.name(64).map(|it| draft.broker.namespace = it)),
        SettingKey::new("broker.allow_unsafe", |draft, value| value.boolean().map(|it| draft.broker.allow_unsafe = it)),
        SettingKey::new("broker.data_dir", |draft, value| {
            value.text().map(|it| draft.broker.data_dir = Some(it).filter(|dir| !dir.is_empty()).map(Into::into))
        }),
        SettingKey::new("broker.max_waiting", |draft, value| {
            value.whole_number(1..=1_000_000_000).map(|it| draft.broker.max_waiting = it)
        }),
        SettingKey::new("broker.max_waiting_bytes", |draft, value| {
            value.size(1..=1 << 50).map(|it| draft.broker.max_waiting_bytes = it as u64)
        }),
        SettingKey::new("broker.max_payload_bytes", |draft, value| {
            value.size(1..=64 * 1024 * 1024).map(|it| draft.server.limits.max_payload_bytes = it)
        }),
    ]
}

fn consumer_keys() -> Vec<SettingKey> {
    vec![
        SettingKey::new("consumer.name", |draft, value| match value.text() {
            Ok(name) if name.is_empty() => {
                draft.consumer_name = None;
                Ok(())
            }
            _ => value.name(64).map(|it| draft.consumer_name = Some(it)),
        }),
        SettingKey::new("consumer.concurrency", |draft, value| {
            value.size(0..=MAX_CONCURRENCY).map(|it| draft.concurrency = it)
        }),
        SettingKey::new("consumer.lease_ms", |draft, value| {
            value.whole_number(500..=DAY_MS).map(|it| draft.broker.lease_ms = it)
        }),
    ]
}

fn retry_keys(
    section: String,
    patch: impl Fn(&mut ConfigDraft) -> &mut RetryPatch + Copy + 'static,
) -> Vec<SettingKey> {
    vec![
        SettingKey::new(format!("{section}.max_attempts"), move |draft, value| {
            value.whole_number(1..=u64::from(u32::MAX)).map(|it| patch(draft).max_attempts = u32::try_from(it).ok())
        }),
        SettingKey::new(format!("{section}.initial_ms"), move |draft, value| {
            value.whole_number(0..=MAX_PAUSE_MS).map(|it| patch(draft).initial_ms = Some(it))
        }),
        SettingKey::new(format!("{section}.factor"), move |draft, value| {
            value.factor().map(|it| patch(draft).factor = Some(it))
        }),
        SettingKey::new(format!("{section}.max_ms"), move |draft, value| {
            value.whole_number(0..=MAX_PAUSE_MS).map(|it| patch(draft).max_ms = Some(it))
        }),
    ]
}

fn retention_plugin_and_log_keys() -> Vec<SettingKey> {
    vec![
        SettingKey::new("retention.processed", |draft, value| {
            value.duration_ms().map(|it| draft.broker.retention.processed_ms = it)
        }),
        SettingKey::new("retention.processed_max", |draft, value| {
            value.whole_number(0..=1_000_000_000).map(|it| draft.broker.retention.processed_max = it)
        }),
        SettingKey::new("retention.processed_max_bytes", |draft, value| {
            value.size(0..=1 << 50).map(|it| draft.broker.retention.processed_max_bytes = it as u64)
        }),
        SettingKey::new("retention.failed", |_, value| value.one_of(&["kept"]).map(drop)),
        SettingKey::new("retention.discarded", |draft, value| {
            value.duration_ms().map(|it| draft.broker.retention.discarded_ms = it)
        }),
        SettingKey::new("retention.idempotency", |draft, value| {
            value.duration_ms().map(|it| draft.broker.retention.idempotency_ms = it)
        }),
        SettingKey::new("plugins.dir", |draft, value| match value.text() {
            Ok(dir) if !dir.is_empty() => {
                draft.plugins_dir = dir.into();
                Ok(())
            }
            _ => Err(value.mismatch("a directory")),
        }),
        SettingKey::new("plugins.watch", |draft, value| {
            let watch = value.one_of(&["notify", "poll"])?;
            draft.plugins_watch.method = if watch == "poll" { WatchMethod::Poll } else { WatchMethod::Notify };
            Ok(())
        }),
        SettingKey::new("plugins.rescan_ms", |draft, value| {
            value.whole_number(10..=DAY_MS).map(|it| draft.plugins_watch.rescan_ms = it)
        }),
        SettingKey::new("plugins.settle_ms", |draft, value| {
            value.whole_number(0..=60_000).map(|it| draft.plugins_watch.settle_ms = it)
        }),
        SettingKey::new("plugins.data_dir", |draft, value| {
            value.text().map(|dir| draft.plugins_data_dir = DataDirSetting::from_setting(dir))
        }),
        SettingKey::new("plugins.cache_max_bytes", |draft, value| {
            value.size(0..=1 << 40).map(|it| draft.plugins_cache_max_bytes = it as u64)
        }),
        SettingKey::new("plugins.hold_new_capabilities", |draft, value| {
            value.boolean().map(|it| draft.hold_new_capabilities = it)
        }),
        SettingKey::new("plugins.hold_taken_types", |draft, value| {
            value.boolean().map(|it| draft.hold_taken_types = it)
        }),
        SettingKey::new("plugins.compile_memory_bytes", |draft, value| {
            value.size(64 * 1024 * 1024..=1 << 40).map(|it| draft.compile.memory_bytes = it as u64)
        }),
        SettingKey::new("plugins.compile_cpu_ms", |draft, value| {
            value.whole_number(1_000..=DAY_MS).map(|it| draft.compile.cpu_ms = it)
        }),
        SettingKey::new("plugins.compile_wall_ms", |draft, value| {
            value.whole_number(10..=DAY_MS).map(|it| draft.compile.wall_ms = it)
        }),
        SettingKey::new("auth.allow_anonymous", |draft, value| value.boolean().map(|it| draft.allow_anonymous = it)),
        SettingKey::new("log.format", |draft, value| {
            let format = value.one_of(&["auto", "text", "json"])?;
            draft.log.format = format.parse().map_err(|()| value.mismatch("a format"))?;
            Ok(())
        }),
        SettingKey::new("log.lines_per_second", |draft, value| {
            value
                .whole_number(0..=1_000_000)
                .map(|it| draft.log.lines_per_second = u32::try_from(it).unwrap_or(u32::MAX))
        }),
        SettingKey::new("log.level", |draft, value| {
            let level = value.text().ok().and_then(|level| level.parse().ok());
            draft.log.level = level.ok_or_else(|| {
                value.mismatch(
                    "a level (error, warn, info, debug, trace), or levels by module: info,eventstream::api=debug",
                )
            })?;
            Ok(())
        }),
    ]
}

fn parse_broker_url(value: SettingValue<'_>) -> Result<String, ValueMismatch> {
    let url = value.text().map_err(|_| "the address of the broker is a text in quotes".to_owned())?;
    // The address may contain a password, so a message repeats its scheme only.
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "embedded" if url.starts_with("embedded://") => {
            Err("write the embedded broker as embedded:DIRECTORY, without //, such as embedded:./data".into())
        }
        "embedded" if url == "embedded:" => Err("write the embedded broker as embedded:DIRECTORY".into()),
        "redis" | "embedded" => Ok(url),
        "rediss" | "redis-sentinel" | "redis-cluster" => {
            Err(format!("{scheme}:// is not supported in this version; use redis://HOST:PORT"))
        }
        _ => Err("write the broker as embedded:DIRECTORY or redis://HOST:PORT".into()),
    }
}
