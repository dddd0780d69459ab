//! The commands, their output for people and programs, and their exit codes.

use std::process::Output;

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions, command, run_command};
use eventstream_tests::on_both_brokers;
use eventstream_tests::redis::RedisServer;
use eventstream_tests::stage::{Broker, Stage};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

on_both_brokers! {
    send_publishes_and_tells_the_id,
    send_waits_for_the_end_and_fails_with_the_event,
    send_says_what_is_wrong,
    status_tells_what_is_there_and_what_waits,
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn send_publishes_and_tells_the_id(broker: Broker) {
    let stage = Stage::scripted(broker, &["p"]);
    let sent = run_command(&["send", "p", r#"{"do":"echo"}"#, "--url", stage.host.url(), "--json"]);
    assert_eq!(code(&sent), Some(0), "{}", stderr(&sent));
    let answer: Value = serde_json::from_str(&stdout(&sent)).unwrap();
    assert_eq!(stage.client.wait_ended(answer["eventId"].as_str().unwrap()).state, "processed");

    let sent = run_command(&["send", "p", r#"{"do":"echo"}"#, "--url", stage.host.url()]);
    assert!(stdout(&sent).contains("accepted") && stdout(&sent).contains("fsync"), "{}", stdout(&sent));
}

fn send_waits_for_the_end_and_fails_with_the_event(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["p"]), |options| options.with("retry.max_attempts", 1));
    let good = run_command(&["send", "p", r#"{"do":"echo","key":"17"}"#, "--wait", "--url", stage.host.url()]);
    assert_eq!(code(&good), Some(0), "{}", stderr(&good));
    assert!(stdout(&good).contains("\"key\":\"17\""), "{}", stdout(&good));
    let bad = run_command(&["send", "p", r#"{"do":"reject","message":"no"}"#, "--wait", "--url", stage.host.url()]);
    assert_eq!(code(&bad), Some(1), "{}", stdout(&bad));
}

fn send_says_what_is_wrong(broker: Broker) {
    let stage = Stage::scripted(broker, &["p"]);
    let word = run_command(&["send", "p", "hello", "--url", stage.host.url()]);
    assert_eq!(code(&word), Some(2), "{}", stderr(&word));
    let refused = run_command(&["send", "not a type", "{}", "--url", stage.host.url()]);
    assert_eq!(code(&refused), Some(1), "{}", stderr(&refused));
    let away = run_command(&["send", "p", "{}", "--url", "http://127.0.0.1:1"]);
    assert_eq!(code(&away), Some(3), "{}", stderr(&away));
    assert_eq!(stderr(&away).lines().count(), 1, "{}", stderr(&away));
    assert_eq!(stage.client.metrics()["accepted"], 0);
}

fn status_tells_what_is_there_and_what_waits(broker: Broker) {
    let stage = Stage::scripted(broker, &["p"]);
    stage.client.wait_ended(&stage.client.post_event("p", &json!({})));
    let shown = run_command(&["status", "--url", stage.host.url()]);
    assert_eq!(code(&shown), Some(0), "{}", stderr(&shown));
    assert!(stdout(&shown).contains("processed"), "{}", stdout(&shown));
    let shown = run_command(&["status", "--json", "--url", stage.host.url()]);
    serde_json::from_str::<Value>(&stdout(&shown)).unwrap();
    assert!(stdout(&shown).contains("\"processed\""), "{}", stdout(&shown));
    assert_eq!(code(&run_command(&["status", "--url", "http://127.0.0.1:1"])), Some(3));
}

#[test]
fn a_wrong_command_line_or_setting_is_refused_with_code_2_and_the_likely_name() {
    let refused = |arguments: &[&str]| {
        let output = run_command(arguments);
        assert_eq!(code(&output), Some(2), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    };
    refused(&["serve", "--no-such-flag"]);
    refused(&["no-such-command"]);
    refused(&["serve", "--broker", "rabbit://localhost"]);
    refused(&["serve", "--listen", "nonsense"]);
    refused(&["serve", "--concurrency", "many"]);
    let folder = tempfile::tempdir().unwrap();
    for (content, named) in [
        ("[consumer]\nlease_sm = 5\n", "lease_ms"),
        ("[consumr]\nlease_ms = 5000\n", "consumer"),
        ("[consumer]\nlease_ms = \"soon\"\n", "lease_ms"),
        ("[consumer\n", "line 1"),
        ("[consumer]\n\n[plugins.\"order.paid\"]\nconcurency = 1\n", "eventstream.toml, line 4, column 1: no key"),
        ("[plugins.work]\nretry.trap.max_attempts = 'x'\n", "eventstream.toml, line 2, column 12: invalid type"),
    ] {
        let file = folder.path().join("eventstream.toml");
        std::fs::write(&file, content).unwrap();
        let complaint = refused(&["serve", "--config", file.to_str().unwrap()]);
        assert!(complaint.contains(named), "{named:?} in {complaint}");
    }
}

#[test]
fn a_file_that_is_no_regular_file_is_refused_at_once() {
    let plugins = PluginsDir::scripted(&["p"]);
    let folder = plugins.path();
    let make_pipe = |name: &str| mknodat(CWD, folder.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for name in ["pipe.wasm", "pipe.toml", "Cargo.toml"] {
        make_pipe(name);
    }
    for (arguments, exit) in [
        (&["plugin", "check", "pipe.wasm"][..], 2),
        (&["plugin", "run", "pipe.wasm"], 2),
        (&["plugin", "check", "p.wasm", "--settings", "pipe.toml"], 2),
        (&["plugin", "run", "p.wasm", "--settings", "pipe.toml"], 2),
        (&["serve", "--config", "pipe.toml"], 2),
        (&["export", "--config", "pipe.toml"], 2),
    ] {
        let output = command(folder, arguments).output().unwrap();
        assert_eq!(code(&output), Some(exit), "{arguments:?}: {}", stderr(&output));
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(said.contains("it is a named pipe, not a regular file"), "{arguments:?}: {said}");
    }
    assert_eq!(code(&command(folder, &["plugin", "build"]).output().unwrap()), Some(2), "a pipe is no project");

    // A server starts in spite of pipes in its plugin directory and for a secret.
    make_pipe("p.toml");
    make_pipe("secret");
    plugins.write("q.wasm", &std::fs::read(folder.join("p.wasm")).unwrap());
    let secret = folder.join("secret");
    plugins.write("q.toml", format!("secrets = {{ a = {{ file = {secret:?} }} }}").as_bytes());
    let stage = Stage::with(Broker::Embedded, plugins, |options| options);
    for name in ["p", "q"] {
        let error = stage.client.get(&format!("/plugins/{name}")).json()["error"].to_string();
        assert!(error.contains("a named pipe"), "{name}: {error}");
    }
}

#[test]
fn a_duration_without_a_unit_is_refused_with_an_example() {
    let refused = run_command(&["send", "p", "{}", "--wait", "--timeout", "1"]);
    assert_eq!(code(&refused), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("with its unit, such as 500ms, 30s"), "{}", stderr(&refused));
}

#[test]
fn a_character_is_escaped_alike_wherever_text_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = "/nowhere/\u{1b}[31m\u{202e}x";
    for arguments in [
        &["plugin", "check", hostile][..],
        &["plugin", "build", hostile],
        &["import", hostile],
        &["serve", "--config", hostile],
        &["serve", "--plugins", hostile],
        &["send", "p", &format!("@{hostile}")],
        &["export", "--broker", &format!("embedded:{hostile}")],
        &["status", hostile],
    ] {
        let output = command(folder.path(), arguments).output().unwrap();
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(said.contains(r"\u{1b}[31m\u{202e}x"), "{arguments:?}: {said}");
    }
}

#[test]
fn an_unknown_setting_in_the_environment_is_refused_with_the_likely_name() {
    let redis = RedisServer::start().unwrap();
    let plugins = PluginsDir::empty();
    let options = HostOptions::new(&redis.url(), plugins.path()).with("consumer.lease_sm", 5_000);
    let Err(exited) = Host::try_spawn(&options) else { panic!("the host serves with an unknown setting") };
    assert_eq!(exited.status.code(), Some(2), "{}", exited.output);
    assert!(exited.output.contains("EVENTSTREAM_CONSUMER_LEASE_MS"), "{}", exited.output);
}

#[test]
fn listening_to_everybody_wants_to_be_asked_for() {
    let redis = RedisServer::start().unwrap();
    let plugins = PluginsDir::empty();
    let open = HostOptions::new(&redis.url(), plugins.path());
    let refused = run_command(&["serve", "--listen", "0.0.0.0:0", "--broker", &redis.url()]);
    assert_eq!(code(&refused), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("--allow-anonymous"), "{}", stderr(&refused));
    Host::spawn(&open.flags(&["--allow-anonymous"])).client().get("/livez").expect(200);
}

#[test]
fn help_and_version_are_there() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["send", "--help"], &["status", "--help"]] {
        let help = run_command(arguments);
        assert_eq!(code(&help), Some(0), "{arguments:?}");
        assert!(stdout(&help).contains("Examples:"), "{arguments:?}: {}", stdout(&help));
    }
    assert!(stdout(&run_command(&["--version"])).starts_with("eventstream "));
}
