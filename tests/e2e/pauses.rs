//! A paused plugin: its events wait, nothing counts as an attempt, and only a person or the time ends the pause.

use eventstream_tests::client::{Answer, Client};
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::{PluginsDir, two_builds};
use eventstream_tests::host::run_command;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

on_both_brokers! {
    a_paused_plugin_gets_nothing_until_it_is_resumed_whatever_restarts,
    what_runs_ends_and_what_a_killed_host_held_waits,
    a_pause_ends_at_its_time,
    the_command_line_pauses_shows_and_resumes,
}

#[track_caller]
fn change(client: &Client, name: &str, action: &str, body: &str) -> Answer {
    let headers = [("content-type", "application/json")];
    let path = format!("/plugins/{name}/{action}");
    client.request("POST", &path, &headers, Some(body.as_bytes())).unwrap_or_else(|error| panic!("{}", error.0))
}

/// Proves that a host had time to handle what waits: an event of another plugin, posted after it, ends.
#[track_caller]
fn pass_by(client: &Client) {
    for _ in 0..20 {
        client.wait_ended(&client.post_event("other", &json!({})));
    }
}

fn a_paused_plugin_gets_nothing_until_it_is_resumed_whatever_restarts(broker: Broker) {
    let mut stage = Stage::scripted(broker, &["work", "other"]);
    stage.client.wait_ended(&stage.client.post_event("work", &json!({})));
    let paused = change(&stage.client, "work", "pause", r#"{"reason":"the bank is away"}"#).expect(200).json();
    assert_eq!(paused["paused"]["reason"], "the bank is away");
    let ids: Vec<String> = (0..20).map(|_| stage.client.post_event("work", &json!({}))).collect();
    pass_by(&stage.client);

    stage.host.kill9();
    stage.replace_host(|options| options);
    pass_by(&stage.client);
    let [_, (build, digest)] = two_builds();
    stage.plugins.write("work.wasm", &build);
    stage.client.wait_for_version("work", &digest);
    assert_eq!(stage.client.get("/plugins/work").json()["paused"], paused["paused"]);
    pass_by(&stage.client);
    for id in &ids {
        let event = stage.client.event(id).unwrap();
        assert_eq!((event.state.as_str(), event.attempts.len()), ("queued", 0));
    }
    assert_eq!(stage.client.metrics()["paused"], json!(["work"]));
    change(&stage.client, "work", "resume", "").expect(200);
    for id in &ids {
        let event = stage.client.wait_ended(id);
        assert_eq!((event.state.as_str(), event.attempts.len(), event.attempts[0].attempt), ("processed", 1, 1));
        assert_eq!(event.attempts[0].digest.as_ref(), Some(&digest));
    }
}

fn what_runs_ends_and_what_a_killed_host_held_waits(broker: Broker) {
    let mut stage = Stage::with(broker, PluginsDir::scripted(&["work", "other"]), |options| {
        options.with("consumer.lease_ms", 1_000)
    });
    let running = |stage: &Stage, sleep_ms: u64| {
        let id = stage.client.post_event("work", &json!({ "sleep-ms": sleep_ms }));
        stage.client.wait_for(&id, &["running"]);
        id
    };
    let ends = running(&stage, 1_500);
    change(&stage.client, "work", "pause", "").expect(200);
    assert_eq!(stage.client.wait_ended(&ends).state, "processed");
    change(&stage.client, "work", "resume", "").expect(200);

    let held = running(&stage, 5_000);
    change(&stage.client, "work", "pause", "").expect(200);
    stage.host.kill9();
    stage.replace_host(|options| options.with("consumer.lease_ms", 1_000));
    let waits = stage.client.wait_for(&held, &["queued"]);
    assert_eq!(waits.attempts.len(), 0);
    pass_by(&stage.client);
    assert_eq!(stage.client.event(&held).unwrap().state, "queued");
    change(&stage.client, "work", "resume", "").expect(200);
    assert_eq!(stage.client.wait_ended(&held).state, "processed");
}

fn a_pause_ends_at_its_time(broker: Broker) {
    let stage = Stage::scripted(broker, &["work", "other"]);
    change(&stage.client, "work", "pause", r#"{"until":"2s"}"#).expect(200);
    let id = stage.client.post_event("work", &json!({}));
    assert_eq!(stage.client.event(&id).unwrap().state, "queued");
    assert_eq!(stage.client.wait_ended(&id).attempts[0].attempt, 1);
    eventually("it is shown no longer", || match stage.client.get("/plugins/work").json() {
        shown if shown["paused"].is_null() => Ok(()),
        shown => Err(shown),
    });
}

fn the_command_line_pauses_shows_and_resumes(broker: Broker) {
    let stage = Stage::scripted(broker, &["work"]);
    let run = |arguments: &[&str]| {
        let output = run_command(&[arguments, &["--url", stage.host.url()]].concat());
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, text) = run(&["pause", "work", "--reason", "the bank is away", "--until", "2h"]);
    assert!(code == Some(0) && text.starts_with("work is paused since") && text.contains("by local until"), "{text}");
    for command in [["status"].as_slice(), &["plugin", "list"]] {
        let (code, text) = run(command);
        assert!(code == Some(0) && text.contains("paused since") && text.contains(": the bank is away"), "{text}");
    }
    assert_eq!(run(&["resume", "work"]), (Some(0), "work is not paused\n".into()));
    let (code, text) = run(&["status"]);
    assert!(code == Some(0) && !text.contains("paused"), "{text}");
    assert_eq!(run(&["pause", "nobody"]).0, Some(1));
    assert_eq!(run(&["pause", "work", "--until", "soon"]).0, Some(1));
}

#[test]
fn a_pause_holds_on_every_host() {
    let stage = Stage::scripted(Broker::Redis, &["work", "other"]);
    let second = stage.another(|options| options);
    change(&second.client(), "work", "pause", "").expect(200);
    eventually("the other host knows", || match stage.client.get("/plugins/work").json() {
        shown if shown["paused"].is_object() => Ok(()),
        shown => Err(shown),
    });
    let id = stage.client.post_event("work", &json!({}));
    pass_by(&stage.client);
    assert_eq!(stage.client.event(&id).unwrap().state, "queued");
    change(&stage.client, "work", "resume", "").expect(200);
    assert_eq!(stage.client.wait_ended(&id).state, "processed");
}
