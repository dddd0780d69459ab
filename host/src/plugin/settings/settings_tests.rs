//! Settings as people write them, and the errors for what is wrong in them.

use std::num::{NonZeroU64, NonZeroUsize};

use super::plugin_settings::{PluginSettings, settings_key};
use crate::event::RetryPolicies;
use crate::plugin::AttemptLimits;

#[test]
fn sizes_and_durations_are_read_as_people_write_them() {
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
fn an_error_in_a_section_names_the_line_of_the_whole_file() {
    let text = "[consumer]\n\n[plugins.\"a.b\"]\nlimits.wall_sm = 1\n";
    let table = toml::from_str::<toml::Table>(text).unwrap()["plugins"]["a.b"].as_table().cloned().unwrap();
    let error = PluginSettings::from_table(table).unwrap_err().in_section(&["plugins", "a.b"], "e.toml".as_ref(), text);
    assert!(error.to_string().contains("e.toml, line 4, column 8: no key \"limits.wall_sm\""), "{error}");
}

#[test]
fn an_error_names_what_is_wrong_and_the_remedy() {
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
        ("retry = { trap = { max_attempt = 1 } }", "no key \"retry.trap.max_attempt\"; did you mean \"max_attempts\""),
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
fn settings_beside_the_file_take_precedence_over_the_configuration() {
    let defaults = PluginSettings::parse("concurrency = 1\nlimits = { wall_ms = 7, cpu_ms = 8 }").unwrap();
    let merged = PluginSettings::parse("limits = { wall_ms = 9 }").unwrap().over(&defaults);
    assert_eq!((merged.limits.wall_ms, merged.limits.cpu_ms), (Some(9), Some(8)));
    assert_eq!(merged.concurrency.map(NonZeroUsize::get), Some(1));
}

#[test]
fn every_limit_can_be_set() {
    let limits = serde_json::to_value(AttemptLimits::default()).unwrap();
    for key in limits.as_object().unwrap().keys().map(|key| settings_key(key)) {
        let patch = PluginSettings::parse(&format!("limits = {{ {key} = 7 }}")).unwrap().limits;
        assert_ne!(patch.over(AttemptLimits::default()), AttemptLimits::default(), "{key}");
    }
}
