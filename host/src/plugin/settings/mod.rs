//! What an operator says of a plugin: `NAME.toml` beside the file, or `[plugins.NAME]` in the configuration.
//!
//! Unknown keys are refused with the nearest known one, since a misspelled limit would be no limit. Keys end in their
//! unit; beside plain numbers they take what people write (`"64MiB"`, `"5s"`).

pub(super) mod secrets;

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

use serde::{Deserialize, Deserializer, de};
use toml::Table;

use super::registry::routing::TypePattern;
use super::{AttemptLimits, HttpGrants, ReusePolicy, SecretSource};
use crate::event::{FailureClass, RetryPatch, RetryPolicies};

use check::{check, check_keys};

mod check;
mod invalid;
mod position;
mod resolve;
mod summary;

pub use invalid::InvalidSettings;
pub use resolve::given_addresses;

const KEYS: [&str; 9] =
    ["types", "concurrency", "max_waiting", "reuse", "limits", "retry", "config", "secrets", "grants"];
const REUSE_KEYS: [&str; 2] = ["max_events", "idle_ms"];
const GRANT_KEYS: [&str; 1] = ["http"];
const LIMIT_KEYS: [&str; 18] = [
    "wall_ms",
    "cpu_ms",
    "memory_bytes",
    "result_bytes",
    "published_events",
    "payload_bytes",
    "state_operations",
    "state_value_bytes",
    "state_keys",
    "state_bytes",
    "log_lines",
    "log_line_bytes",
    "stderr_bytes",
    "host_call_bytes",
    "http_requests",
    "http_request_bytes",
    "http_response_bytes",
    "http_timeout_ms",
];
/// The most attempts of a plugin side by side that may be asked for.
pub const MAX_CONCURRENCY: usize = 10_000;
const POLICY_KEYS: [&str; 4] = ["max_attempts", "initial_ms", "factor", "max_ms"];
const CLASS_KEYS: [&str; 4] = ["retry", "trap", "timeout", "limit"];

/// What is set for a plugin; what is left out is as for all plugins.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginSettings {
    /// The types that it handles, whatever it says itself.
    pub types: Option<Vec<TypePattern>>,
    /// How many attempts may run side by side on one host.
    pub concurrency: Option<NonZeroUsize>,
    /// How many of its events may wait in the deployment.
    pub max_waiting: Option<NonZeroU64>,
    /// Whether and how its instances are used for several events.
    pub reuse: Option<ReusePolicy>,
    /// Its limits.
    pub limits: LimitsPatch,
    /// Its retry policies.
    pub retry: RetrySettings,
    /// What it is given for `config.get`.
    pub config: Option<BTreeMap<String, String>>,
    /// What it is given for `secrets.get`, and what is told nobody else.
    pub secrets: Option<BTreeMap<String, SecretSource>>,
    /// What it may do beyond what every plugin may.
    pub grants: GrantSettings,
}

/// What is granted to a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrantSettings {
    /// Where it may send HTTP requests.
    pub http: Option<HttpGrants>,
}

/// The limits that are set; see [`Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "those of `Limits`, each of them optional")]
pub struct LimitsPatch {
    #[serde(deserialize_with = "duration_ms")]
    pub wall_ms: Option<u64>,
    #[serde(deserialize_with = "duration_ms")]
    pub cpu_ms: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub memory_bytes: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub result_bytes: Option<u64>,
    pub published_events: Option<u32>,
    #[serde(deserialize_with = "size_bytes")]
    pub payload_bytes: Option<u64>,
    pub state_operations: Option<u32>,
    #[serde(deserialize_with = "size_bytes")]
    pub state_value_bytes: Option<u64>,
    pub state_keys: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub state_bytes: Option<u64>,
    pub log_lines: Option<u32>,
    #[serde(deserialize_with = "size_bytes")]
    pub log_line_bytes: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub stderr_bytes: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub host_call_bytes: Option<u64>,
    pub http_requests: Option<u32>,
    #[serde(deserialize_with = "size_bytes")]
    pub http_request_bytes: Option<u64>,
    #[serde(deserialize_with = "size_bytes")]
    pub http_response_bytes: Option<u64>,
    #[serde(deserialize_with = "duration_ms")]
    pub http_timeout_ms: Option<u64>,
}

/// The retry policies that are set: for all classes, and for each one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetrySettings {
    /// See [`crate::event::Policy::max_attempts`].
    pub max_attempts: Option<u32>,
    /// See [`crate::event::Policy::initial_ms`].
    pub initial_ms: Option<u64>,
    /// See [`crate::event::Policy::factor`].
    pub factor: Option<f64>,
    /// See [`crate::event::Policy::max_ms`].
    pub max_ms: Option<u64>,
    /// For `retry` answers.
    pub retry: Option<RetryPatch>,
    /// For traps, panics, exits.
    pub trap: Option<RetryPatch>,
    /// For time that was over.
    pub timeout: Option<RetryPatch>,
    /// For other limits.
    pub limit: Option<RetryPatch>,
}

impl PluginSettings {
    /// Reads the text of a file of settings.
    ///
    /// # Errors
    /// What is wrong, and in which line and column. Never the line itself: it may hold a secret.
    pub fn parse(text: &str) -> Result<Self, InvalidSettings> {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let byte = |error: &toml::de::Error| error.span().map(|span| span.start);
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            InvalidSettings::new(error.message().trim_end()).placed(text, byte(&error))
        })?;
        check(&table).map_err(|error| error.placed(text, None))?;
        let settings: Self = table.try_into().map_err(|error: toml::de::Error| {
            // Values of a table know their keys, and those of a text their places.
            let byte = toml::from_str::<Self>(text).err().as_ref().and_then(byte);
            InvalidSettings::unfit(&error).placed(text, byte)
        })?;
        settings.checked().map_err(|error| error.placed(text, None))
    }

    /// Reads a table of settings, such as `[plugins.NAME]`.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn from_table(table: Table) -> Result<Self, InvalidSettings> {
        check(&table)?;
        let settings: Self = table.try_into().map_err(|error| InvalidSettings::unfit(&error))?;
        settings.checked()
    }

    /// These settings, if each of them is one that can be used.
    fn checked(self) -> Result<Self, InvalidSettings> {
        self.retry.check().map_err(|error| error.at(&["retry"]))?;
        if self.concurrency.is_some_and(|concurrency| concurrency.get() > MAX_CONCURRENCY) {
            let words = format!("concurrency is at most {MAX_CONCURRENCY}");
            return Err(InvalidSettings::new(words).at(&["concurrency"]));
        }
        Ok(self)
    }

    /// These settings, and where they say nothing those beneath.
    pub fn over(self, beneath: &Self) -> Self {
        Self {
            types: self.types.or_else(|| beneath.types.clone()),
            concurrency: self.concurrency.or(beneath.concurrency),
            max_waiting: self.max_waiting.or(beneath.max_waiting),
            reuse: self.reuse.or(beneath.reuse),
            limits: self.limits.or(&beneath.limits),
            retry: self.retry.or(&beneath.retry),
            config: self.config.or_else(|| beneath.config.clone()),
            secrets: self.secrets.or_else(|| beneath.secrets.clone()),
            grants: GrantSettings { http: self.grants.http.or_else(|| beneath.grants.http.clone()) },
        }
    }
}

impl LimitsPatch {
    /// Reads a table of limits, such as `[plugins.limits]`.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn from_table(table: Table) -> Result<Self, InvalidSettings> {
        check_keys(&["limits"], &table, &LIMIT_KEYS)?;
        table.try_into().map_err(|error| InvalidSettings::unfit(&error))
    }

    /// The limits with those replaced that are set.
    pub fn over(&self, beneath: AttemptLimits) -> AttemptLimits {
        AttemptLimits {
            wall_ms: self.wall_ms.unwrap_or(beneath.wall_ms),
            cpu_ms: self.cpu_ms.unwrap_or(beneath.cpu_ms),
            memory_bytes: self.memory_bytes.unwrap_or(beneath.memory_bytes),
            result_bytes: self.result_bytes.unwrap_or(beneath.result_bytes),
            published_events: self.published_events.unwrap_or(beneath.published_events),
            payload_bytes: self.payload_bytes.unwrap_or(beneath.payload_bytes),
            state_operations: self.state_operations.unwrap_or(beneath.state_operations),
            state_value_bytes: self.state_value_bytes.unwrap_or(beneath.state_value_bytes),
            state_keys: self.state_keys.unwrap_or(beneath.state_keys),
            state_bytes: self.state_bytes.unwrap_or(beneath.state_bytes),
            log_lines: self.log_lines.unwrap_or(beneath.log_lines),
            log_line_bytes: self.log_line_bytes.unwrap_or(beneath.log_line_bytes),
            stderr_bytes: self.stderr_bytes.unwrap_or(beneath.stderr_bytes),
            host_call_bytes: self.host_call_bytes.unwrap_or(beneath.host_call_bytes),
            http_requests: self.http_requests.unwrap_or(beneath.http_requests),
            http_request_bytes: self.http_request_bytes.unwrap_or(beneath.http_request_bytes),
            http_response_bytes: self.http_response_bytes.unwrap_or(beneath.http_response_bytes),
            http_timeout_ms: self.http_timeout_ms.unwrap_or(beneath.http_timeout_ms),
        }
    }

    fn or(self, beneath: &Self) -> Self {
        Self {
            wall_ms: self.wall_ms.or(beneath.wall_ms),
            cpu_ms: self.cpu_ms.or(beneath.cpu_ms),
            memory_bytes: self.memory_bytes.or(beneath.memory_bytes),
            result_bytes: self.result_bytes.or(beneath.result_bytes),
            published_events: self.published_events.or(beneath.published_events),
            payload_bytes: self.payload_bytes.or(beneath.payload_bytes),
            state_operations: self.state_operations.or(beneath.state_operations),
            state_value_bytes: self.state_value_bytes.or(beneath.state_value_bytes),
            state_keys: self.state_keys.or(beneath.state_keys),
            state_bytes: self.state_bytes.or(beneath.state_bytes),
            log_lines: self.log_lines.or(beneath.log_lines),
            log_line_bytes: self.log_line_bytes.or(beneath.log_line_bytes),
            stderr_bytes: self.stderr_bytes.or(beneath.stderr_bytes),
            host_call_bytes: self.host_call_bytes.or(beneath.host_call_bytes),
            http_requests: self.http_requests.or(beneath.http_requests),
            http_request_bytes: self.http_request_bytes.or(beneath.http_request_bytes),
            http_response_bytes: self.http_response_bytes.or(beneath.http_response_bytes),
            http_timeout_ms: self.http_timeout_ms.or(beneath.http_timeout_ms),
        }
    }
}

impl RetrySettings {
    /// The policies with what is set replaced: first what is set for all classes, then what is set for one. What is set
    /// for all gives the class `limit` no more attempts than it had, since it is there to be tried less often.
    pub fn over(&self, mut policies: RetryPolicies) -> RetryPolicies {
        let all = self.all();
        let limit_attempts = policies.limit.max_attempts;
        for class in [FailureClass::Retry, FailureClass::Trap, FailureClass::Timeout, FailureClass::Limit] {
            policies.patch(class, &all);
        }
        policies.limit.max_attempts = policies.limit.max_attempts.min(limit_attempts);
        for (class, patch) in [
            (FailureClass::Retry, self.retry),
            (FailureClass::Trap, self.trap),
            (FailureClass::Timeout, self.timeout),
            (FailureClass::Limit, self.limit),
        ] {
            policies.patch(class, &patch.unwrap_or_default());
        }
        policies
    }

    fn check(&self) -> Result<(), InvalidSettings> {
        let classes =
            [("retry.", self.retry), ("trap.", self.trap), ("timeout.", self.timeout), ("limit.", self.limit)];
        let classes = classes.map(|(place, patch)| (place, patch.unwrap_or_default()));
        for (place, patch) in [("", self.all())].into_iter().chain(classes) {
            patch.check().map_err(|words| InvalidSettings::new(format!("retry.{place}{words}")))?;
        }
        Ok(())
    }

    fn all(&self) -> RetryPatch {
        RetryPatch {
            max_attempts: self.max_attempts,
            initial_ms: self.initial_ms,
            factor: self.factor,
            max_ms: self.max_ms,
        }
    }

    fn or(self, beneath: &Self) -> Self {
        Self {
            max_attempts: self.max_attempts.or(beneath.max_attempts),
            initial_ms: self.initial_ms.or(beneath.initial_ms),
            factor: self.factor.or(beneath.factor),
            max_ms: self.max_ms.or(beneath.max_ms),
            retry: self.retry.or(beneath.retry),
            trap: self.trap.or(beneath.trap),
            timeout: self.timeout.or(beneath.timeout),
            limit: self.limit.or(beneath.limit),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenAmount {
    Number(i64),
    Text(String),
}

fn size_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    amount(deserializer, "a number of bytes above 0, or a size such as \"64MiB\"", |text| {
        text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
    })
}

/// Milliseconds above 0, as a number or as a duration.
pub(super) fn given_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    duration_ms(deserializer).map(Option::unwrap_or_default)
}

fn duration_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    amount(deserializer, "a number of milliseconds above 0, or a duration such as \"5s\"", |text| {
        humantime::parse_duration(text).ok().and_then(|duration| u64::try_from(duration.as_millis()).ok())
    })
}

fn amount<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
    read: impl Fn(&str) -> Option<u64>,
) -> Result<Option<u64>, D::Error> {
    let amount = match WrittenAmount::deserialize(deserializer)
        .map_err(|_| de::Error::custom(format!("expected {expected}")))?
    {
        WrittenAmount::Number(number) => u64::try_from(number).ok(),
        WrittenAmount::Text(text) => read(&text),
    };
    amount.filter(|amount| *amount > 0).map(Some).ok_or_else(|| de::Error::custom(format!("expected {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        let settings = PluginSettings::parse(
            r#"
            types = ["order.*", "USER_SIGNUP"]
            concurrency = 3
            max_waiting = 500
            limits = { memory_bytes = "32MiB", wall_ms = "2s", cpu_ms = 500 }
            retry = { max_attempts = 9, trap = { max_attempts = 1 } }
            config = { greeting = "hello" }
            reuse = { idle_ms = "2s" }
            "#,
        )
        .unwrap();
        assert_eq!(settings.max_waiting.map(NonZeroU64::get), Some(500));
        let limits = settings.limits.over(AttemptLimits::default());
        assert_eq!((limits.memory_bytes, limits.wall_ms, limits.cpu_ms), (32 << 20, 2_000, 500));
        assert_eq!(limits.result_bytes, AttemptLimits::default().result_bytes);
        let policies = settings.retry.over(RetryPolicies::default());
        assert_eq!((policies.retry.max_attempts, policies.trap.max_attempts), (9, 1));
        assert_eq!(policies.limit.max_attempts, 2, "no more than it had");
        assert_eq!(settings.config.unwrap()["greeting"], "hello");
        let reuse = settings.reuse.unwrap();
        assert_eq!((reuse.max_events.get(), reuse.idle_ms), (100, 2_000));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (text, words) in [
            ("typs = []", "did you mean \"types\""),
            ("secrets = \"hunter2\"", "secrets are a table"),
            ("secrets = { a = 5 }", "a secret is a text"),
            ("secrets = { a = { evn = \"A\" } }", "a secret is a text"),
            ("secrets.a = \"hunter2", "wrong: line 1, column "),
            ("secrets.a = hunter2", "line 1"),
            ("secrets.a = \"hun\\qter2\"\nb = \"hunter2\"", "line 1"),
            ("secrets = { a = \"hunter2\" b = 1 }", "line 1"),
            ("secrets = { a = [\"hunter2\"] }", "a secret is a text"),
            ("secrets = { a = { env = \"A\", value = \"hunter2\" } }", "a secret is a text"),
            ("secret.a = \"hunter2\"", "no key \"secret\""),
            ("config = \"hunter2\"", "config"),
            ("config = { token = [\"hunter2\"] }", "token"),
            ("grants = \"hunter2\"", "grants"),
            ("grants.http = \"hunter2\"", "http"),
            ("grants.http = [\"hunter2\"]", "no scheme"),
            ("grants.http = [\"https://me:hunter2@host\"]", "https://***@host"),
            ("grants.http = [\"https://host/a?token=hunter2\"]", "more than scheme"),
            ("grants.http = [\"ftp://:hunter2@host\"]", "neither http nor https"),
            ("grants.http = [\"https://ho:hunter2\"]", "port"),
            ("grants.http = [{ url = \"https://host\", methods = [\"hunter2\"] }]", "method"),
            ("grants.http = [{ url = \"https://host\", methods = \"hunter2\" }]", "grants"),
            ("limits = \"hunter2\"", "limits"),
            ("limits = { log_lines = \"hunter2\" }", "limits.log_lines"),
            ("limits = { wall_ms = \"hunter2\" }", "duration"),
            ("retry = { max_attempts = \"hunter2\" }", "retry"),
            ("types = \"hunter2\"", "types"),
            ("concurrency = \"hunter2\"", "concurrency"),
            ("limits = { memory = 1 }", "did you mean \"memory_bytes\""),
            (
                "retry = { trap = { max_attempt = 1 } }",
                "no key \"retry.trap.max_attempt\"; did you mean \"max_attempts\"",
            ),
            ("retry = { reject = {} }", "no key \"retry.reject\""),
            ("limits = { wall_ms = 0 }", "above 0"),
            ("limits = { memory_bytes = \"lots\" }", "64MiB"),
            ("types = [\"a b\"]", "order.*"),
            ("grants = { htp = [] }", "no key \"grants.htp\"; did you mean \"http\"?"),
            ("grants.http = [\"api.example.com\"]", "has no scheme"),
            ("concurrency = 0", "concurrency"),
            ("max_waiting = 0", "max_waiting"),
            ("reuse = { max_event = 5 }", "no key \"reuse.max_event\"; did you mean \"max_events\"?"),
            ("reuse = { max_events = 0 }", "nonzero"),
            ("reuse = { idle_ms = 0 }", "above 0"),
            ("concurrency = ", "wrong: line 1, column "),
            ("\n[limits]\nwall_ms = 5\n  memory = 1", "wrong: line 4, column 3: no key \"limits.memory\""),
            ("types = []\nconcurrency = \"many\"", "wrong: line 2, column 15: "),
            ("concurrency = 10001", "wrong: line 1, column 1: concurrency is at most"),
            ("[retry]\nfactor = 0.1", "wrong: line 1, column 2: retry.factor"),
        ] {
            let error = PluginSettings::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error:?} says {words:?}");
            assert!(!error.contains("ter2"), "{text}: {error}");
        }
    }

    #[test]
    fn settings_beside_the_file_go_before_those_of_the_configuration() {
        let beneath = PluginSettings::parse("concurrency = 1\nlimits = { wall_ms = 7, cpu_ms = 8 }").unwrap();
        let merged = PluginSettings::parse("limits = { wall_ms = 9 }").unwrap().over(&beneath);
        assert_eq!((merged.limits.wall_ms, merged.limits.cpu_ms), (Some(9), Some(8)));
        assert_eq!(merged.concurrency.map(NonZeroUsize::get), Some(1));
    }

    #[test]
    fn every_limit_can_be_set() {
        let limits = serde_json::to_value(AttemptLimits::default()).unwrap();
        assert_eq!(limits.as_object().unwrap().len(), LIMIT_KEYS.len());
        for key in LIMIT_KEYS {
            let patch = PluginSettings::parse(&format!("limits = {{ {key} = 7 }}")).unwrap().limits;
            assert_ne!(patch.over(AttemptLimits::default()), AttemptLimits::default(), "{key}");
        }
    }
}
