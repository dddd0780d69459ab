//! The commands, their output for people and programs, and their exit codes.

use std::process::Output;

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions, run_command};
use eventstream_tests::on_both_brokers;
use eventstream_tests::redis::RedisServer;
use eventstream_tests::stage::{Broker, Stage};
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
    ] {
        let file = folder.path().join("eventstream.toml");
        std::fs::write(&file, content).unwrap();
        let complaint = refused(&["serve", "--config", file.to_str().unwrap()]);
        assert!(complaint.contains(named), "{named:?} in {complaint}");
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
