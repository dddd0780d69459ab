//! The configuration as users see it: precedence, the commented file, and the messages for faults.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::event::FailureClass;
use crate::plugin::{AttemptLimits, LimitsPatch};

/// The file in the repository, with every key uncommented.
fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
        _ => line,
    };
    include_str!("../../../eventstream.toml").lines().map(line).collect::<Vec<_>>().join("\n")
}

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Config, Error> {
    let environment: Vec<_> = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let flags: Vec<_> =
        flags.iter().map(|(key, value)| FlagSetting { key, flag: "--flag", value: value.to_string() }).collect();
    Config::from_layers(Some((Path::new("eventstream.toml"), file)), &environment, &flags)
}

fn refusal(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> String {
    load(file, environment, flags).expect_err("is refused").to_string()
}

#[test]
fn the_commented_file_is_the_default() {
    let default = Config::from_layers(None, &[], &[]).unwrap();
    assert_eq!(load(include_str!("../../../eventstream.toml"), &[], &[]).unwrap(), default);
    let mut written = load(&uncommented(), &[], &[]).unwrap();
    let limits = LimitsPatch::from_table(std::mem::take(&mut written.plugins.limits)).unwrap();
    let none = AttemptLimits {
        wall_ms: 0,
        cpu_ms: 0,
        memory_bytes: 0,
        result_bytes: 0,
        published_events: 0,
        payload_bytes: 0,
        state_operations: 0,
        state_value_bytes: 0,
        state_keys: 0,
        state_bytes: 0,
        log_lines: 0,
        log_line_bytes: 0,
        stderr_bytes: 0,
        host_call_bytes: 0,
        http_requests: 0,
        http_request_bytes: 0,
        http_response_bytes: 0,
        http_timeout_ms: 0,
    };
    assert_eq!(limits.over(none), AttemptLimits::default());
    // Only the default directory is created, and the file names one.
    written.plugins.may_make_dir = true;
    assert_eq!(written, default);
}

#[test]
fn the_commented_file_is_complete() {
    fn names(prefix: &str, table: &toml::Table, found: &mut BTreeSet<String>) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(table) => names(&name, table, found),
                _ => drop(found.insert(name)),
            }
        }
    }
    let mut in_file = BTreeSet::new();
    names("", &toml::from_str(&uncommented()).unwrap(), &mut in_file);
    in_file.retain(|name| !name.starts_with("plugins.limits."));
    let known: BTreeSet<String> = keys::all().into_iter().map(|key| key.name).collect();
    assert_eq!(in_file, known);
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let file = "consumer.lease_ms = 1000";
    let environment = [("EVENTSTREAM_CONSUMER_LEASE_MS", "2000")];
    assert_eq!(load(file, &[], &[]).unwrap().broker.lease_ms, 1_000);
    assert_eq!(load(file, &environment, &[]).unwrap().broker.lease_ms, 2_000);
    let config = load(file, &environment, &[("consumer.lease_ms", "3000")]).unwrap();
    assert_eq!((config.worker.lease, config.broker.lease_ms), (Duration::from_secs(3), 3_000));
}

#[test]
fn a_class_overrides_the_base_policy() {
    let file = "[retry]\nmax_attempts = 9\ninitial_ms = 10\n[retry.trap]\nmax_attempts = 3\n[retry.limit]\nfactor = 4";
    let policies = load(file, &[("EVENTSTREAM_RETRY_NO_HANDLER_MAX_MS", "70")], &[]).unwrap().worker.policies;
    let of = |class| policies.get(class).copied().unwrap();
    assert_eq!((of(FailureClass::Retry).max_attempts, of(FailureClass::Retry).initial_ms), (9, 10));
    assert_eq!((of(FailureClass::Trap).max_attempts, of(FailureClass::Trap).initial_ms), (3, 10));
    assert_eq!((of(FailureClass::Limit).max_attempts, of(FailureClass::Limit).factor), (2, 4.0));
    assert_eq!((of(FailureClass::NoHandler).max_ms, of(FailureClass::Timeout).max_ms), (70, 300_000));
}

#[test]
fn settings_of_plugins_are_passed_on_unchanged() {
    let file = "[plugins]\ndir = \"p\"\n[plugins.limits]\nwall_ms = 7\n[plugins.user-signup]\ntypes = [\"A\"]";
    let plugins = load(file, &[("EVENTSTREAM_PLUGINS_LIMITS_CPU_MS", "9")], &[]).unwrap().plugins;
    assert_eq!(plugins.dir, Path::new("p"));
    assert_eq!(plugins.limits, toml::from_str("wall_ms = 7\ncpu_ms = 9").unwrap());
    assert_eq!(plugins.by_name["user-signup"], toml::from_str("types = [\"A\"]").unwrap());
}

#[test]
fn a_fault_is_reported_with_its_place_and_the_remedy() {
    for (file, words) in [
        ("\n[server]\nlisen = 1", vec!["eventstream.toml, line 3", "server.lisen", "did you mean server.listen?"]),
        ("lease_ms = 1", vec!["line 1", "did you mean consumer.lease_ms?"]),
        ("[brokr]\nurl = \"x\"", vec!["line 1", "brokr is not a section; did you mean broker?"]),
        ("[consumr]\nlease_ms = 5000", vec!["consumr is not a section; did you mean consumer?"]),
        ("[consumer]\nlease_sm = 5", vec!["did you mean consumer.lease_ms?"]),
        ("[server]\nlisten = 3000", vec!["line 2", "server.listen: 3000 is not an address"]),
        ("server = 1", vec!["server is a section"]),
        ("[consumer]\nconcurrency = \"4\"", vec!["consumer.concurrency", "the text in quotes is not a whole number"]),
        ("[consumer]\nlease_ms = 100", vec!["100 is not a whole number from 500"]),
        ("[retention]\nprocessed = 7", vec!["7 is not a duration such as"]),
        ("[retention]\nprocessed = \"7 parsecs\"", vec!["is not a duration"]),
        ("[retry]\nfactor = 0.5", vec!["0.5 is not a number from 1"]),
        ("[retry.reject]\nmax_attempts = 2", vec!["retry.reject is not a section"]),
        ("[log]\nlevel = \"inof\"", vec!["the text in quotes is not a level"]),
        ("[broker]\nurl = \"embedded:\"", vec!["embedded:DIRECTORY"]),
        ("[broker]\nurl = \"embedded://./d\"", vec!["without //"]),
        ("[auth]\ntoken = 1", vec!["auth.token is not a setting", "eventstream key new"]),
        ("[auth]\nkeys = [{ name = \"a\" }]", vec!["line 2", "auth.keys: the key in place 1: set either sha256"]),
        ("[broker]\nnamespace = \"a b\"", vec!["the text in quotes is not 1 to 64 letters"]),
        ("[plugins]\ndri = \"x\"", vec!["plugins.dri is not a setting; this section has dir"]),
        ("[server\n", vec!["eventstream.toml, line 1"]),
        ("[broker]\nmax_payload_bytes = 2000000", vec!["line 2", "server.max_body_bytes = 1048576"]),
    ] {
        let message = refusal(file, &[], &[]);
        for word in words {
            assert!(message.contains(word), "{file:?} gives {message:?}, which lacks {word:?}");
        }
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let message = refusal("x = 1\n[server]\nlisten = 1", &[("EVENTSTREAM_SERVER_LISEN", "")], &[("log.format", "xml")]);
    assert_eq!(message.lines().count(), 4, "{message}");
    assert!(message.contains("EVENTSTREAM_SERVER_LISEN: is not a setting; did you mean EVENTSTREAM_SERVER_LISTEN?"));
    assert!(message.contains("--flag: the value is not one of auto, text, json"));
}

#[test]
fn a_hint_for_a_variable_names_what_is_meant() {
    for (name, hint) in [
        ("EVENTSTREAM_AUTH_TOKEN", "; keys are made by `eventstream key new`, or named in a file below [[auth.keys]]"),
        ("EVENTSTREAM_LISTEN", "; did you mean EVENTSTREAM_SERVER_LISTEN?"),
        ("EVENTSTREAM_AUTH_ANONYMOUS", "; did you mean EVENTSTREAM_AUTH_ALLOW_ANONYMOUS?"),
        ("EVENTSTREAM_COLOUR", "; eventstream.toml in the repository lists them all"),
    ] {
        let message = refusal("", &[(name, "s3cret")], &[]);
        assert!(message.ends_with(&format!("{name}: is not a setting{hint}")), "{message}");
    }
}

#[test]
fn variables_of_others_are_left_alone() {
    let config = load(
        "",
        &[
            ("PATH", "/bin"),
            ("EVENTSTREAM_TEST_MUTANT", "no-fence"),
            ("EVENTSTREAM_URL", "http://127.0.0.1:1"),
            ("EVENTSTREAM_CONFIG", "x.toml"),
            ("EVENTSTREAM_SERVICE_HOST", "10.0.0.1"),
            ("EVENTSTREAM_SERVICE_PORT_HTTP", "3000"),
            ("EVENTSTREAM_PORT", "tcp://10.0.0.1:3000"),
            ("EVENTSTREAM_PORT_3000_TCP_ADDR", "10.0.0.1"),
        ],
        &[],
    );
    assert_eq!(config.unwrap(), Config::from_layers(None, &[], &[]).unwrap());
    assert!(refusal("", &[("EVENTSTREAM_PLUGINS_PAYMENT_CONCURRENCY", "1")], &[]).contains("[plugins.NAME]"));
}

#[test]
fn listening_beyond_loopback_needs_permission() {
    let config = load("", &[("EVENTSTREAM_AUTH_ALLOW_ANONYMOUS", "true")], &[("server.listen", "[::]:0")]).unwrap();
    assert_eq!(config.server.listen.port(), 0);
    assert!(load("", &[], &[("server.listen", "localhost:8080")]).unwrap().server.listen.ip().is_loopback());
    assert_eq!(load("", &[], &[("server.listen", "LocalHost:0")]).unwrap().server.listen.to_string(), "127.0.0.1:0");
    for bad in ["localhost", "localhost:", "localhost:70000", ":3000", "no such name:3000"] {
        assert!(load("", &[], &[("server.listen", bad)]).is_err(), "{bad}");
    }
    assert!(load("", &[], &[("server.listen", "[::ffff:127.0.0.1]:1")]).is_ok());
}

#[test]
fn a_password_in_the_address_of_the_broker_is_not_shown() {
    for (given, shown) in [
        ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
        ("redis://me:s3cr@t@host:1/0", "redis://***@host:1/0"),
        ("redis://:s3cret@host", "redis://***@host"),
        ("redis://:s3c/r@t@host", "redis://***@host"),
        ("redis://host/0?password=s3cret", "redis://host/***"),
        ("embedded:./data", "embedded:./data"),
    ] {
        let config = load("", &[("EVENTSTREAM_BROKER_URL", given)], &[]).unwrap();
        assert_eq!(config.broker_url.as_str(), given);
        assert_eq!(config.broker_url.to_string(), shown);
        assert!(!format!("{config:?}").contains("s3cr"), "{config:?}");
    }
    let message = refusal("", &[("EVENTSTREAM_BROKER_URL", "redis-cluster://:s3cret@host")], &[]);
    assert!(!message.contains("s3cret"), "{message}");
}

#[test]
fn a_secret_in_the_wrong_place_is_not_shown() {
    const SECRET: &str = "hun/ter 2";
    let file = |text: &str| {
        let message = refusal(text, &[], &[]);
        assert!(!message.contains("hun"), "{text} gives {message}");
    };
    let keys: Vec<String> = keys::all().into_iter().map(|key| key.name).collect();
    // These take any text.
    let open = ["broker.data_dir", "plugins.dir", "plugins.data_dir"];
    for key in keys.iter().filter(|key| !open.contains(&key.as_str())) {
        for value in [format!("\"{SECRET}\""), format!("[\"{SECRET}\"]"), format!("{{ a = \"{SECRET}\" }}")] {
            if load(&format!("{key} = {value}"), &[], &[]).is_err() {
                file(&format!("{key} = {value}"));
            }
        }
        let variable = format!("EVENTSTREAM_{}", key.replace(['.', '-'], "_").to_uppercase());
        let message = refusal("", &[(&variable, SECRET)], &[]);
        assert!(!message.contains("hun"), "{key}: {message}");
    }
    for text in [
        "broker = \"redis://:hun@ter\"",
        "[broker]\npassword = \"hunter\"",
        "[auth]\nkeys = [\"hunter\"]",
        "[plugins]\npayment = \"hunter\"",
        "[broker]\nurl = redis://:hunter@host",
        "[broker]\nurl = \"redis://:hunter@host",
        "[broker]\nurl = 'redis://:hunter@host\nnamespace = 'es'",
        "[broker]\nurl = \"redis://:hun\\qter@host\"",
        "[broker]\nurl = \"a\" hunter",
        "[broker]\nhunter",
        "[broker]\nurl = \"rabbit://:hunter@host\"",
        "[broker]\nurl = \":hunter@host\"",
        "[broker]\nurl = [\"redis://:hunter@host\"]",
    ] {
        file(text);
    }
}

#[test]
fn sources_do_not_show_their_values() {
    let flags = vec![FlagSetting { key: "broker.url", flag: "--broker", value: "redis://:hunter2@host".into() }];
    let environment = vec![("EVENTSTREAM_BROKER_URL".to_owned(), "redis://:hunter2@host".to_owned())];
    let shown = format!("{:?}", ConfigSources { file: None, environment, flags });
    assert!(shown.contains("--broker") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_file_that_was_asked_for_must_exist() {
    let missing = ConfigSources { file: Some("/nowhere/eventstream.toml".into()), ..ConfigSources::default() };
    assert!(Config::load(&missing).expect_err("is refused").to_string().contains("/nowhere/eventstream.toml"));
}

#[test]
fn only_the_default_plugin_directory_is_created() {
    assert!(load("", &[], &[]).unwrap().plugins.may_make_dir);
    assert!(!load("[plugins]\ndir = \"./plugins\"", &[], &[]).unwrap().plugins.may_make_dir);
    assert!(!load("", &[("EVENTSTREAM_PLUGINS_DIR", "p")], &[]).unwrap().plugins.may_make_dir);
    assert!(!load("", &[], &[("plugins.dir", "p")]).unwrap().plugins.may_make_dir);
}
