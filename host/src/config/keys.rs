//! The list of the settings: their names, and where their values go.
//!
//! The keys of single plugins, `plugins.limits` and `plugins.resolve` are listed in `plugin::settings`. The environment
//! variables, the hints for misspelled names, and the test that the commented file is complete all use this one.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::broker::{StoreKind, TlsFiles};
use crate::event::{FailureClass, MAX_PAUSE_MS, RetryPatch, RetryPolicies};
use crate::plugin::{MAX_CONCURRENCY, WatchMethod};

use super::auth_keys::parse_keys;
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

impl SettingKey {
    fn new(
        name: impl Into<String>,
        set: impl Fn(&mut ConfigDraft, SettingValue<'_>) -> Result<(), ValueMismatch> + 'static,
    ) -> Self {
        Self { name: name.into(), set: Box::new(set) }
    }

    /// A setting that is a whole number in this range.
    fn number<T: TryFrom<u64>>(
        name: &str,
        range: RangeInclusive<u64>,
        field: impl Fn(&mut ConfigDraft) -> &mut T + 'static,
    ) -> Self {
        Self::new(name, move |draft, value| {
            let number = T::try_from(value.whole_number(range.clone())?);
            *field(draft) = number.map_err(|_| value.mismatch("a number that fits this machine"))?;
            Ok(())
        })
    }

    fn boolean(name: &str, field: impl Fn(&mut ConfigDraft) -> &mut bool + 'static) -> Self {
        Self::new(name, move |draft, value| value.boolean().map(|it| *field(draft) = it))
    }

    fn duration_ms(name: &str, field: impl Fn(&mut ConfigDraft) -> &mut u64 + 'static) -> Self {
        Self::new(name, move |draft, value| value.duration_ms().map(|it| *field(draft) = it))
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
    keys.push(SettingKey::number("events.max_depth", 1..=1_000_000, |draft| &mut draft.max_depth));
    keys.extend(consumer_keys());
    keys.extend(retry_keys("retry".into(), |draft| &mut draft.retry));
    let policies = RetryPolicies::default();
    for class in FailureClass::ALL.into_iter().filter(|class| policies.get(*class).is_some()) {
        keys.extend(retry_keys(format!("retry.{class}"), move |draft| draft.retry_by_class.entry(class).or_default()));
    }
    keys.extend(retention_plugin_and_log_keys());
    keys
}

fn server_keys() -> Vec<SettingKey> {
    const MIB: u64 = 1024 * 1024;
    vec![
        SettingKey::new("server.listen", |draft, value| value.address().map(|it| draft.server.listen = it)),
        SettingKey::number("server.max_body_bytes", 1_024..=1_024 * MIB, |draft| &mut draft.server.max_body_bytes),
        SettingKey::number("server.max_buffered_bytes", 16 * MIB..=1_024 * 1_024 * MIB, |draft| {
            &mut draft.server.max_buffered_bytes
        }),
        SettingKey::number("server.max_batch_events", 1..=100_000, |draft| &mut draft.server.limits.max_batch_events),
        SettingKey::number("server.max_json_depth", 2..=120, |draft| &mut draft.server.limits.max_json_depth),
        SettingKey::number("server.max_connections", 1..=1_000_000, |draft| &mut draft.server.max_connections),
        SettingKey::number("server.header_timeout_ms", 10..=DAY_MS, |draft| &mut draft.server.header_timeout_ms),
        SettingKey::number("server.body_timeout_ms", 10..=DAY_MS, |draft| &mut draft.server.body_timeout_ms),
        SettingKey::number("server.idle_timeout_ms", 10..=DAY_MS, |draft| &mut draft.server.idle_timeout_ms),
        SettingKey::number("server.drain_ms", 0..=DAY_MS, |draft| &mut draft.server.drain_ms),
    ]
}

fn broker_keys() -> Vec<SettingKey> {
    vec![
        SettingKey::new("broker.url", |draft, value| parse_broker_url(value).map(|it| draft.broker_url = it)),
        SettingKey::new("broker.namespace", |draft, value| value.name(64).map(|it| draft.broker.namespace = it)),
        SettingKey::boolean("broker.allow_unsafe", |draft| &mut draft.broker.allow_unsafe),
        SettingKey::new("broker.data_dir", |draft, value| value.directory().map(|it| draft.broker.data_dir = it)),
        tls_key("broker.tls.ca", |tls| &mut tls.ca),
        tls_key("broker.tls.cert", |tls| &mut tls.cert),
        tls_key("broker.tls.key", |tls| &mut tls.key),
        SettingKey::number("broker.max_waiting", 1..=1_000_000_000, |draft| &mut draft.broker.max_waiting),
        SettingKey::number("broker.max_waiting_bytes", 1..=1 << 50, |draft| &mut draft.broker.max_waiting_bytes),
        SettingKey::number("broker.max_payload_bytes", 1..=64 * 1024 * 1024, |draft| {
            &mut draft.server.limits.max_payload_bytes
        }),
    ]
}

/// A path to a PEM file; an empty one counts as none.
fn tls_key(name: &str, file: fn(&mut TlsFiles) -> &mut Option<PathBuf>) -> SettingKey {
    SettingKey::new(name, move |draft, value| {
        let path = value.text()?;
        *file(&mut draft.broker.tls) = Some(path).filter(|path| !path.is_empty()).map(Into::into);
        Ok(())
    })
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
        SettingKey::number("consumer.concurrency", 0..=MAX_CONCURRENCY as u64, |draft| &mut draft.concurrency),
        SettingKey::number("consumer.lease_ms", 500..=DAY_MS, |draft| &mut draft.broker.lease_ms),
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
        SettingKey::duration_ms("retention.processed", |draft| &mut draft.broker.retention.processed_ms),
        SettingKey::number("retention.processed_max", 0..=1_000_000_000, |draft| {
            &mut draft.broker.retention.processed_max
        }),
        SettingKey::number("retention.processed_max_bytes", 0..=1 << 50, |draft| {
            &mut draft.broker.retention.processed_max_bytes
        }),
        SettingKey::new("retention.failed", |_, value| value.one_of(&["kept"]).map(drop)),
        SettingKey::duration_ms("retention.discarded", |draft| &mut draft.broker.retention.discarded_ms),
        SettingKey::duration_ms("retention.audit", |draft| &mut draft.broker.retention.audit_ms),
        SettingKey::number("retention.audit_max", 1..=1_000_000, |draft| &mut draft.broker.retention.audit_max),
        SettingKey::duration_ms("retention.idempotency", |draft| &mut draft.broker.retention.idempotency_ms),
        SettingKey::number("retention.idempotency_max_bytes", 1..=1 << 50, |draft| {
            &mut draft.broker.retention.idempotency_max_bytes
        }),
        SettingKey::new("plugins.dir", |draft, value| {
            draft.plugins.dir = value.directory()?.ok_or_else(|| value.mismatch("a directory"))?;
            Ok(())
        }),
        SettingKey::new("plugins.watch", |draft, value| {
            let watch = value.one_of(&["notify", "poll"])?;
            draft.plugins.watch = if watch == "poll" { WatchMethod::Poll } else { WatchMethod::Notify };
            Ok(())
        }),
        SettingKey::number("plugins.rescan_ms", 10..=DAY_MS, |draft| &mut draft.plugins.rescan_ms),
        SettingKey::number("plugins.settle_ms", 0..=60_000, |draft| &mut draft.plugins.quiet_ms),
        SettingKey::new("plugins.data_dir", |draft, value| {
            value.directory().map(|it| draft.data_dir = it.map_or(DataDirSetting::None, DataDirSetting::Path))
        }),
        SettingKey::number("plugins.cache_max_bytes", 0..=1 << 40, |draft| &mut draft.plugins.cache_max_bytes),
        SettingKey::boolean("plugins.hold_new_capabilities", |draft| &mut draft.plugins.hold_new_capabilities),
        SettingKey::boolean("plugins.hold_taken_types", |draft| &mut draft.plugins.hold_taken_types),
        SettingKey::number("plugins.compile_memory_bytes", 64 * 1024 * 1024..=1 << 40, |draft| {
            &mut draft.plugins.compile.memory_bytes
        }),
        SettingKey::number("plugins.compile_cpu_ms", 1_000..=DAY_MS, |draft| &mut draft.plugins.compile.cpu_ms),
        SettingKey::number("plugins.compile_wall_ms", 10..=DAY_MS, |draft| &mut draft.plugins.compile.wall_ms),
        SettingKey::boolean("auth.allow_anonymous", |draft| &mut draft.server.allow_anonymous),
        SettingKey::boolean("auth.open_metrics", |draft| &mut draft.server.open_metrics),
        SettingKey::new("auth.keys", |draft, value| parse_keys(value).map(|keys| draft.keys = keys)),
        SettingKey::new("log.format", |draft, value| {
            let format = value.one_of(&["auto", "text", "json"])?;
            draft.log.format = format.parse().map_err(|()| value.mismatch("a format"))?;
            Ok(())
        }),
        SettingKey::number("log.lines_per_second", 0..=1_000_000, |draft| &mut draft.log.lines_per_second),
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
    StoreKind::of_url(&url).map(|_| url)
}
